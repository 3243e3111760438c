"""A second implementation of the compression, written from docs/flashvid.md, in loops over tokens in float64.

It is the oracle for `flashvid.compress`: slow and simple, without shared code or structure. Trees are walked by
recursion, densities and distances are computed pair by pair, and every slot records the set of its input tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashvid import CompressionConfig

Vector = NDArray[np.float64]
Frames = list[list[Vector]]
Ranker = Callable[[list[float], int], list[int]]
"""Returns the positions of the n largest values, best first."""


class UndecidedError(Exception):
    """The outcome depends on rounding."""


@dataclass(frozen=True)
class Slot:
    """One compressed token."""

    index: int
    token: Vector
    sources: frozenset[int]


def lowest_index_first(values: list[float], count: int) -> list[int]:
    """Rank with ties to the lowest index."""
    return sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]


def dot(a: Vector, b: Vector) -> float:
    """Return the inner product."""
    return float(a @ b)


def cosine(a: Vector, b: Vector) -> float:
    """Return the cosine; 0 if one of the vectors is zero (corrected mode only)."""
    norms = math.sqrt(dot(a, a)) * math.sqrt(dot(b, b))
    return dot(a, b) / norms if norms > 0 else 0.0


def mean(vectors: list[Vector]) -> Vector:
    """Return the elementwise mean."""
    return add_up(vectors) / len(vectors)


def add_up(vectors: list[Vector]) -> Vector:
    """Return the elementwise sum, added in order."""
    result = np.zeros_like(vectors[0])
    for vector in vectors:
        result += vector
    return result


def segment(frames: Frames, config: CompressionConfig, rank: Ranker) -> list[int]:
    """Return the lengths of the segments (docs/flashvid.md, section 1)."""
    if not config.do_segment:
        return [len(frames)]
    means = [mean(frame) for frame in frames]
    similarity = [cosine(means[i], means[i + 1]) for i in range(len(frames) - 1)]
    hard = [i for i, s in enumerate(similarity) if s < config.segment_threshold]
    cuts = list(hard)
    if config.complementary_segment and len(hard) + 1 < config.min_segment_num:
        wanted = min(config.min_segment_num - len(hard) - 1, len(frames) - 1)
        if config.reference_compatible:
            for i in hard:
                similarity[i] = 1.0
            cuts += rank([-s for s in similarity], wanted)
        else:
            others = [i for i in range(len(similarity)) if i not in hard]
            others.sort(key=lambda i: (similarity[i], i))
            cuts += others[:wanted]
    lengths, start = [], 0
    for cut in sorted(cuts):
        lengths.append(cut + 1 - start)
        start = cut + 1
    return [*lengths, len(frames) - start]


def select(
    frames: Frames, scores: list[list[float]], centre: Vector, config: CompressionConfig, counts: list[int]
) -> list[list[int]]:
    """Select `counts` tokens of each frame of one segment: sorted positions (docs/flashvid.md, section 2)."""
    method = config.token_selection_method
    result = []
    for frame, attention, k in zip(frames, scores, counts, strict=True):
        n = len(frame)
        if method == "attn":
            result.append(sorted(lowest_index_first(attention, k)))
            continue
        weight = [1.0] * n
        if method != "div":
            weight = [1e6 * a for a in attention]
        if method == "attn_div_v2":
            weight = [w * dot(x, centre) for w, x in zip(weight, frame, strict=True)]
        matrix = [[(1 - cosine(frame[i], frame[j])) * weight[j] for j in range(n)] for i in range(n)]
        picked: list[int] = []
        while len(picked) < k:
            values = []
            for j in range(n):
                if not picked:
                    column = [matrix[i][j] for i in range(n) if i != j or config.reference_compatible]
                    values.append(sorted(column)[min(1, n - 1) if config.reference_compatible else 0] if column else 0)
                elif j in picked and not config.reference_compatible:
                    values.append(-math.inf)
                elif j in picked and method != "attn_div_v2":
                    values.append(-1.0)
                else:
                    values.append(min(matrix[i][j] for i in picked))
            best = lowest_index_first(values, 1)[0]
            # Up to rounding, distances of tokens to themselves tie, and so do those of neighbours to each other.
            close = [value for value in values if values[best] - value < 1e-6 * max(map(abs, weight))]
            if config.reference_compatible and len(close) > 1:
                raise UndecidedError
            picked.append(best)
        result.append(sorted(picked))
    return result


@dataclass
class Node:
    """A token in a forest: its frame, its position, and the tokens of the next frame that are linked to it."""

    frame: int
    position: int
    children: list[Node]
    has_parent: bool = False

    def subtree(self) -> list[Node]:
        """Return the node and all its descendants."""
        return [self, *(node for child in self.children for node in child.subtree())]


def grow_forest(frames: Frames, free: list[list[bool]], config: CompressionConfig, floor: int) -> list[list[Node]]:
    """Link the tokens of one segment, and leave at least `floor` of them without a link.

    See docs/flashvid.md, section 3, steps 1 to 4.
    """
    n = len(frames[0])
    nodes = [[Node(f, p, []) for p in range(n)] for f in range(len(frames))]
    if len(frames) == 1 or config.temporal_threshold >= 1:
        return nodes
    nothing = -1.0 if config.reference_compatible else -math.inf
    best = [[nothing] * n for _ in frames]
    parent = [[0] * n for _ in frames]
    for f in range(1, len(frames)):
        for p in range(n):
            for q in range(n):
                if free[f][p] and free[f - 1][q]:
                    s = cosine(frames[f][p], frames[f - 1][q])
                    if s > best[f][p]:
                        best[f][p], parent[f][p] = s, q
    threshold = config.temporal_threshold
    everything = sorted((value for row in best for value in row), reverse=True)
    if sum(not value > threshold for value in everything) < floor:
        allowed = len(everything) - floor
        threshold = everything[allowed - 1] if allowed > 0 else math.inf
        # Float32 has few values this close to 1.
        if any(0 < abs(value - threshold) < 1e-6 for value in everything):
            raise UndecidedError
        if config.reference_compatible:
            threshold = max(threshold, -1 + 1e-6)
    for f in range(1, len(frames)):
        for p in range(n):
            if best[f][p] > threshold:
                nodes[f - 1][parent[f][p]].children.append(nodes[f][p])
                nodes[f][p].has_parent = True
    return nodes


def in_float32(density: float) -> float:
    """Return a density in the reference's precision: it underflows to 0 for a token far from its neighbours."""
    if 1e-46 < density < 1e-36:
        raise UndecidedError
    return density if density > 1e-40 else 0.0


def cluster(points: list[Vector], c: int, config: CompressionConfig, rank: Ranker) -> list[tuple[int, list[int]]]:
    """Return each centre of one frame with its members (docs/flashvid.md, section 4)."""
    n, width = len(points), len(points[0])
    d = [[math.sqrt(dot(a - b, a - b) / width) for b in points] for a in points]
    k = min(c, 7)
    density = [math.exp(-math.fsum(x * x for x in sorted(d[i])[:k]) / k) for i in range(n)]
    if config.reference_compatible:
        density = [in_float32(x) for x in density]
    farthest = max(max(row) for row in d)
    score = []
    for i in range(n):
        above = [d[i][j] for j in range(n) if density[j] > density[i]]
        score.append((min(above) if above else farthest) * density[i])
    centers = rank(score, c)
    members: dict[int, list[int]] = {center: [] for center in centers}
    for i in range(n):
        members[i if i in members else min(centers, key=lambda center: d[i][center])].append(i)
    return list(members.items())


def split(total: int, weights: list[int]) -> list[int]:
    """Split `total` into whole parts in proportion to the weights; the largest remainders are rounded up."""
    if total == 0:
        return [0] * len(weights)
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    parts = [math.floor(x) for x in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (parts[i] - exact[i], i))
    for i in by_remainder[: total - sum(parts)]:
        parts[i] += 1
    return parts


def clusters_of_frames(counts: list[int], total: int, config: CompressionConfig) -> list[int]:
    """Return how many merged tokens of a segment each of its frames gets, by its number of roots."""
    if config.reference_compatible:
        ratio = total / max(sum(counts), 1)
        return [count if ratio >= 1 else math.ceil(count * ratio) for count in counts]
    occupied = sum(count > 0 for count in counts)
    if total < occupied:
        return split(total, counts)
    # One for each frame with roots, then the rest in proportion to the other roots.
    rest = split(total - occupied, [max(count - 1, 0) for count in counts])
    return [more + (count > 0) for more, count in zip(rest, counts, strict=True)]


@dataclass
class Candidates:
    """Candidates of one frame for DPC-kNN: roots by index, their values and trees, and the number of clusters."""

    indices: list[int]
    values: list[Vector]
    trees: list[frozenset[int]]
    wanted: int

    def slots(self, config: CompressionConfig, rank: Ranker) -> list[Slot]:
        """Return the merged tokens of the frame."""
        if self.wanted == 0:
            return []
        alone = [(i, [i]) for i in range(len(self.values))]
        return [
            Slot(
                self.indices[center],
                mean([self.values[i] for i in members]),
                frozenset().union(*(self.trees[i] for i in members)),
            )
            for center, members in (
                alone if self.wanted == len(alone) else cluster(self.values, self.wanted, config, rank)
            )
        ]


def merge_segment(
    frames: Frames, selected: list[list[int]], first: int, config: CompressionConfig, total: int, floor: int
) -> list[Candidates]:
    """Return the candidates of one segment whose first token has index `first` (docs/flashvid.md, section 3)."""
    n = len(frames[0])
    free = [[p not in chosen for p in range(n)] for chosen in selected]
    if len(frames) == 1 and config.reference_compatible:
        free = [[True] * n]
    nodes = grow_forest(frames, free, config, floor)
    roots = [[node for node in row if free[node.frame][node.position] and not node.has_parent] for row in nodes]
    result = []
    for row, c in zip(roots, clusters_of_frames([len(row) for row in roots], total, config), strict=True):
        values, trees = [], []
        for root in row:
            tree = root.subtree()
            divisor = 1 + len(root.children) if config.reference_compatible else len(tree)
            values.append(add_up([frames[m.frame][m.position] for m in tree]) / divisor)
            trees.append(frozenset(first + m.frame * n + m.position for m in tree))
        result.append(Candidates([first + root.frame * n + root.position for root in row], values, trees, c))
    return result


def budgets(lengths: list[int], n: int, config: CompressionConfig) -> tuple[list[int], list[int], list[int]]:
    """Return the tokens to select in each frame, and for each segment its merged tokens and its floor."""
    t = sum(lengths)
    if config.reference_compatible:
        budget = math.ceil((n * config.retention_ratio) * config.expansion)
        n_select = math.ceil(budget * config.alpha)
        merged = [(budget - n_select) * length for length in lengths]
        return [min(n_select, n)] * t, merged, [budget * length for length in lengths]
    # Cumulative, up to the end of each frame.
    kept = [min(f * n, math.ceil(config.retention_ratio * config.expansion * f * n)) for f in range(t + 1)]
    chosen = [math.ceil(k * config.alpha) for k in kept]
    selected, merged, floor, f = [], [], [], 0
    for length in lengths:
        selected += [chosen[g + 1] - chosen[g] for g in range(f, f + length)]
        floor.append(kept[f + length] - kept[f])
        merged.append(floor[-1] - sum(selected[f:]))
        f += length
    return selected, merged, floor


def naive_compress(
    features: ArrayLike, attention: ArrayLike, config: CompressionConfig, rank: Ranker = lowest_index_first
) -> tuple[list[Slot], list[int]]:
    """Compress a clip, and return the slots by ascending index and the lengths of the segments.

    Args:
        features: `[T, N, D]`.
        attention: `[T, N]`.
        config: The settings.
        rank: Ranking of DySeg and DPC-kNN. The reference's ties follow no rule, so its mode needs its own ranking.

    Raises:
        UndecidedError: A decision depends on rounding. In the corrected mode ADTS is never undecided.
    """
    frames: Frames = [list(frame) for frame in np.asarray(features, dtype=np.float64)]
    scores: list[list[float]] = np.asarray(attention, dtype=np.float64).tolist()
    n = len(frames[0])
    lengths = segment(frames, config, rank)
    selected_of, merged_of, floor_of = budgets(lengths, n, config)
    if not config.reference_compatible and sum(selected_of) + sum(merged_of) == len(frames) * n:
        tokens = [token for frame in frames for token in frame]
        return [Slot(i, token, frozenset([i])) for i, token in enumerate(tokens)], lengths
    slots: list[Slot] = []
    candidates: list[Candidates] = []
    start = 0
    for length, to_merge, floor in zip(lengths, merged_of, floor_of, strict=True):
        if length == 0:
            continue
        part = frames[start : start + length]
        event = frames if config.event_relevance == "clip" else part
        centre = mean([mean(frame) for frame in event])
        selected = select(part, scores[start : start + length], centre, config, selected_of[start : start + length])
        for f, positions in enumerate(selected):
            for p in positions:
                index = (start + f) * n + p
                slots.append(Slot(index, part[f][p], frozenset([index])))
        if sum(merged_of) > 0:
            candidates += merge_segment(part, selected, start * n, config, to_merge, floor)
        start += length
    slots += [slot for frame in candidates for slot in frame.slots(config, rank)]
    return sorted(slots, key=lambda slot: slot.index), lengths
