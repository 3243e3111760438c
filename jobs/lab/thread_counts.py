"""Whether compression decides the same on one thread and on two, and how close the decisions are that differ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flashvid import CompressionConfig, CompressionResult, compress
from flashvid.compression.adts import event_relevance, token_weights
from flashvid.compression.dyseg import Segments
from flashvid.config import TokenSelectionMethod
from jobs.bench.cost import Clip, drifting_clip

# Below this gap, the order of sums may change a decision.
TIE = 1e-6


@dataclass(frozen=True)
class ThreadDifferences:
    """Differences for one clip size, over several seeds."""

    retention_ratio: float
    seeds: int
    kept: int
    """Tokens kept, over all seeds."""
    kept_differing: int
    """Of these, on one thread and not on two."""
    selected_differing: int
    """The same of ADTS alone."""
    largest_gap: float
    """The largest gap at which ADTS parted, as a share of the largest weight."""

    @property
    def only_ties(self) -> bool:
        """Whether all selections that differ do so at a tie."""
        return self.largest_gap < TIE


def selection_gap(clip: Clip, one: CompressionResult, other: CompressionResult, method: TokenSelectionMethod) -> float:
    """Return the gap at the pick where two selections of ADTS part; the largest of all frames, in float64.

    Both are results of `adts` with this selection on the same clip, and have equally many tokens in each frame. Picks
    are replayed up to the first that one of them lacks; the gap is the difference to its best token instead.

    Returns:
        A share of the largest weight of the frame; 0 if they do not part.
    """
    features, scores = clip[0].double(), clip[1]
    num_tokens = scores.shape[1]
    relevance = None
    if method == "attn_div_v2":
        segments = Segments.of(one.segment_lengths, features.device)
        relevance = event_relevance(features, features.mean(dim=1), segments)
    weights = token_weights(scores, relevance, method, reference_compatible=False).double()
    gaps = [0.0]
    for frame in {index // num_tokens for index in {*one.indices.tolist()} ^ {*other.indices.tolist()}}:
        units = functional.normalize(features[frame], dim=-1)
        distances = (1 - units @ units.T) * weights[frame]
        sides = [
            {index % num_tokens for index in side.indices.tolist() if index // num_tokens == frame}
            for side in (one, other)
        ]
        gaps.append(_gap_of_frame(distances, *sides) / float(weights[frame].abs().max()))
    return max(gaps)


def _gap_of_frame(distances: Tensor, one: set[int], other: set[int]) -> float:
    """See `selection_gap`: `[N, N]` from picked to candidate, and the positions that each side kept."""
    worth = distances.clone().fill_diagonal_(torch.inf).amin(dim=0)
    to_picked = torch.full_like(worth, torch.inf)
    while True:
        best = int(worth.argmax())
        for side in (one, other):
            if best not in side:
                left = [token for token in side if worth[token] > -torch.inf]
                return float(worth[best] - worth[left].max())
        to_picked = torch.minimum(to_picked, distances[best])
        to_picked[best] = -torch.inf
        worth = to_picked


def compare_thread_counts(shape: tuple[int, int, int], retention_ratio: float, seeds: int) -> ThreadDifferences:
    """Compress clips of one shape `(T, N, D)`, seed by seed, on two threads and on one; restore the thread count."""
    threads_before = torch.get_num_threads()
    whole = CompressionConfig(retention_ratio=retention_ratio)
    alone = whole.model_copy(update={"method": "adts"})
    kept = kept_differing = selected_differing = 0
    largest_gap = 0.0
    for seed in range(seeds):
        clip = drifting_clip(*shape, seed)
        results = []
        for threads in (2, 1):
            torch.set_num_threads(threads)
            results.append((compress(*clip, whole), compress(*clip, alone)))
        (one, one_alone), (two, two_alone) = results
        kept += len(one.indices)
        kept_differing += len({*one.indices.tolist()} - {*two.indices.tolist()})
        selected_differing += len({*one_alone.indices.tolist()} - {*two_alone.indices.tolist()})
        largest_gap = max(largest_gap, selection_gap(clip, one_alone, two_alone, alone.token_selection_method))
    torch.set_num_threads(threads_before)
    return ThreadDifferences(retention_ratio, seeds, kept, kept_differing, selected_differing, largest_gap)


def threads_table(differences: list[ThreadDifferences], shape: tuple[int, int, int]) -> str:
    """Return the table for the report."""
    lines = [f"One thread against two on {' x '.join(map(str, shape))}:", ""]
    lines += ["| retention | seeds | tokens | differing | of ADTS alone | largest gap |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {d.retention_ratio:.2f} | {d.seeds} | {d.kept} | {d.kept_differing} | {d.selected_differing} | "
        f"{d.largest_gap:.1e} |"
        for d in differences
    ]
    return "\n".join(lines) + "\n"
