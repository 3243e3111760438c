"""Second implementations of the other compression methods, written from their papers, in loops over tokens in float64.

They are the oracle for `flashvid/compression/rivals/`: slow and simple, without shared code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from flashvid.config import MethodName
from tests.oracles.naive_compression import Frames, Slot, Vector, cosine, dot, lowest_index_first, mean, split

Scores = list[list[float]]
NaiveMethod = Callable[[Frames, Scores, int], list[Slot]]
"""Takes frames, scores and a budget of tokens, and returns slots in any order."""


def evenly(budget: int, parts: int) -> list[int]:
    """Split a budget into whole shares whose partial sums are the exact ones rounded down."""
    return [budget * (part + 1) // parts - budget * part // parts for part in range(parts)]


def kept(frames: Frames, indices: list[int]) -> list[Slot]:
    """Return the slots of unchanged tokens."""
    n = len(frames[0])
    return [Slot(i, frames[i // n][i % n], frozenset([i])) for i in indices]


def merged(frames: Frames, owner: dict[int, int]) -> list[Slot]:
    """Return the plain means of all tokens with the same owner."""
    n = len(frames[0])
    members: dict[int, list[int]] = {}
    for index, target in owner.items():
        members.setdefault(target, []).append(index)
    return [Slot(i, mean([frames[m // n][m % n] for m in own]), frozenset(own)) for i, own in members.items()]


def attention_topk(frames: Frames, scores: Scores, budget: int) -> list[Slot]:
    """Keep the tokens of each frame with the most attention."""
    indices = []
    for f, count in enumerate(evenly(budget, len(frames))):
        indices += [f * len(frames[0]) + p for p in lowest_index_first(scores[f], count)]
    return kept(frames, indices)


def uniform_frames(frames: Frames, _scores: Scores, budget: int) -> list[Slot]:
    """Keep the frames in the middle of equal parts of the clip."""
    n, t = len(frames[0]), len(frames)
    count = math.ceil(budget / n)
    chosen = [math.floor((part + 0.5) * t / count) for part in range(count)]
    return kept(frames, [f * n + p for f in chosen for p in range(n)])


def spatial_pooling(frames: Frames, _scores: Scores, budget: int) -> list[Slot]:
    """Average over rectangles of a square grid; a slot has the index of its rectangle's middle token."""
    side = math.isqrt(len(frames[0]))
    wanted = math.ceil(budget / len(frames))
    grids = [(r, c) for r in range(1, side + 1) for c in range(1, side + 1) if r * c >= wanted]
    grids = [grid for grid in grids if 0.5 <= grid[0] / grid[1] <= 2]
    rows, columns = min(grids, key=lambda grid: (grid[0] * grid[1], abs(math.log(grid[0] / grid[1]))))
    slots = []
    for f, frame in enumerate(frames):
        for r in range(rows):
            for c in range(columns):
                ys = [y for y in range(side) if y * rows // side == r]
                xs = [x for x in range(side) if x * columns // side == c]
                middle = math.floor(sum(ys) / len(ys)) * side + math.floor(sum(xs) / len(xs))
                block = [y * side + x for y in ys for x in xs]
                first = f * side * side
                sources = frozenset(first + p for p in block)
                slots.append(Slot(first + middle, mean([frame[p] for p in block]), sources))
    return slots


def visionzip(frames: Frames, scores: Scores, budget: int) -> list[Slot]:
    """Keep dominant tokens by attention; merge the others into the most similar of evenly spaced targets."""
    owner: dict[int, int] = {}
    n = len(frames[0])
    for f, count in enumerate(evenly(budget, len(frames))):
        dominant = lowest_index_first(scores[f], round(count * 54 / 64))
        others = [p for p in range(n) if p not in dominant]
        contextual = count - len(dominant)
        targets = [others[i * len(others) // contextual] for i in range(contextual)]
        for p in dominant:
            owner[f * n + p] = f * n + p
        for p in others if targets else []:
            alike = [cosine(frames[f][p], frames[f][q]) for q in targets]
            owner[f * n + p] = f * n + (p if p in targets else targets[alike.index(max(alike))])
    return merged(frames, owner)


def vidcom2(frames: Frames, _scores: Scores, budget: int) -> list[Slot]:
    """Give more tokens to frames unlike the video, and keep those unlike the frame and the video."""
    n = len(frames[0])
    units = [[x / math.sqrt(dot(x, x)) for x in frame] for frame in frames]

    def unlike(x: Vector, centre: Vector) -> float:
        squared = dot(x - centre, x - centre)
        return -math.fsum(math.exp(-squared / (2 * 2.0**power)) for power in (-3, -2, -1, 0, 1))

    video = mean([x for frame in units for x in frame])
    of_video = [[unlike(x, video) for x in frame] for frame in units]
    of_frame = [[unlike(x, mean(frame)) for x in frame] for frame in units]
    odd = [math.exp(math.fsum(row) / n / 0.01) for row in of_video]
    weights = [1 + share / math.fsum(odd) - 1 / len(frames) for share in odd]
    counts = [0] * len(frames)
    open_frames = list(range(len(frames)))
    while open_frames:
        # Scaled to integers, finer than the precision of the weights.
        left = budget - n * (len(frames) - len(open_frames))
        parts = split(left, [max(round(weights[f] * 2**24), 1) for f in open_frames])
        full = [f for f, part in zip(open_frames, parts, strict=True) if part > n]
        for f, part in zip(open_frames, parts, strict=True):
            counts[f] = min(part, n)
        if not full:
            break
        open_frames = [f for f, part in zip(open_frames, parts, strict=True) if part < n]
    indices = []
    for f, count in enumerate(counts):
        worth = [a + b for a, b in zip(of_video[f], of_frame[f], strict=True)]
        indices += [f * n + p for p in lowest_index_first(worth, count)]
    return kept(frames, indices)


def tome(frames: Frames, _scores: Scores, budget: int) -> list[Slot]:
    """In each frame, repeatedly merge every other token into the most similar of the rest, the closest pairs first."""
    owner: dict[int, int] = {}
    n = len(frames[0])
    for f, count in enumerate(evenly(budget, len(frames))):
        if count == 0:
            continue
        groups = {p: [p] for p in range(n)}
        while len(groups) > count:
            left = sorted(groups)
            means = {p: mean([frames[f][m] for m in groups[p]]) for p in left}
            sources, targets = left[0::2], left[1::2]
            pairs = []
            for source in sources:
                alike = [cosine(means[source], means[target]) for target in targets]
                pairs.append((max(alike), source, targets[alike.index(max(alike))]))
            pairs.sort(key=lambda pair: (-pair[0], pair[1]))
            for _, source, target in pairs[: min(len(left) - count, len(sources), len(left) - 1)]:
                groups[target] += groups.pop(source)
        owner |= {f * n + member: f * n + p for p, group in groups.items() for member in group}
    return merged(frames, owner)


def fastvid(frames: Frames, scores: Scores, budget: int) -> list[Slot]:
    """Keep 60 % of each segment's share by attention, and merge the rest into dense tokens."""
    t, n = len(frames), len(frames[0])
    means = [mean(frame) for frame in frames]
    similarity = [cosine(means[i], means[i + 1]) for i in range(t - 1)]
    least = sorted(range(t - 1), key=lambda i: (similarity[i], i))[:7]
    cuts = sorted({*least, *(i for i in range(t - 1) if similarity[i] < 0.9)})
    starts = [0, *(cut + 1 for cut in cuts)]
    lengths = [end - start for start, end in zip(starts, [*starts[1:], t], strict=True)]
    slots = []
    for start, length, share in zip(starts, lengths, split(budget, [length * n for length in lengths]), strict=True):
        if share > 0:
            first = start * n
            found = prune_segment(frames[start : start + length], scores[start : start + length], share)
            slots += [Slot(first + s.index, s.token, frozenset(first + i for i in s.sources)) for s in found]
    return slots


def prune_segment(frames: Frames, scores: Scores, budget: int) -> list[Slot]:
    """Reduce one segment with FastVID's STPrune."""
    n = len(frames[0])
    points = [x for frame in frames for x in frame]
    num_anchors = min(round(0.4 * budget), budget - 1)
    slots = attention_topk(frames, scores, budget - num_anchors)
    if num_anchors == 0:
        return slots
    salient = {slot.index for slot in slots}
    rest = [i for i in range(len(points)) if i not in salient]
    candidates = [i for i in rest if (i // n) % 4 == 0]
    if len(candidates) < num_anchors:
        candidates = rest

    def distance(i: int, j: int) -> float:
        return math.sqrt(dot(points[i] - points[j], points[i] - points[j]))

    density, separation = {}, {}
    for i in candidates:
        nearest = sorted(distance(i, j) for j in candidates if j != i)[:4]
        density[i] = -math.fsum(d * d for d in nearest) / len(nearest) if nearest else 0.0
    farthest = max(distance(i, j) for i in candidates for j in candidates)
    for i in candidates:
        denser = [distance(i, j) for j in candidates if density[j] > density[i]]
        separation[i] = min(denser) if denser else farthest
    # Logarithms, since only the order matters.
    best = [math.log(separation[i]) + density[i] if separation[i] > 0 else -math.inf for i in candidates]
    anchors = sorted(candidates[i] for i in lowest_index_first(best, num_anchors))
    gathered: dict[int, list[int]] = {anchor: [] for anchor in anchors}
    for i in rest:
        if i not in gathered:
            alike = [cosine(points[i], points[anchor]) for anchor in anchors]
            gathered[anchors[alike.index(max(alike))]].append(i)
    for anchor, others in gathered.items():
        token = 0.6 * points[anchor] + 0.4 * mean([points[i] for i in others]) if others else points[anchor]
        slots.append(Slot(anchor, token, frozenset([anchor, *others])))
    return slots


NAIVE_METHODS: Mapping[MethodName, NaiveMethod] = {
    "visionzip": visionzip,
    "fastvid": fastvid,
    "vidcom2": vidcom2,
    "tome": tome,
    "attention_topk": attention_topk,
    "uniform_frames": uniform_frames,
    "spatial_pooling": spatial_pooling,
}
