"""ADTS: select the tokens of each frame that matter and that differ (paper: ADTS; spec 2)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from flashvid.config import TokenSelectionMethod
from flashvid.segmentation import first_ranked, unit_vectors

# Frames whose N x N distances are in memory together; frames are independent of each other.
FRAMES_AT_ONCE = 32
# The reference scales its weights so that its marker of a chosen token, -1, lies below every candidate.
REFERENCE_SCALE = 1e6
REFERENCE_CHOSEN = -1.0


def event_relevance(features: Tensor, segment_lengths: Sequence[int]) -> Tensor:
    """How much each token agrees with its segment.

    This is its dot product with the mean of the segment's frame means, not normalised and possibly negative.

    Args:
        features: `[T, N, D]` float32.
        segment_lengths: Adding up to T; zeros are allowed.

    Returns:
        `[T, N]` float32.
    """
    borders = zip(accumulate(segment_lengths), segment_lengths, strict=True)
    segments = [features[end - length : end] for end, length in borders if length > 0]
    return torch.cat([segment @ segment.mean(dim=1).mean(dim=0) for segment in segments])


def calibrated_distances(features: Tensor, weights: Tensor, *, reference_compatible: bool) -> tuple[Tensor, Tensor]:
    """How far each candidate is from each other token of its frame, times what the candidate is worth.

    Args:
        features: `[F, N, D]` float32.
        weights: `[F, N]` float32.
        reference_compatible: Take the second smallest distance to a candidate, its own included, for its nearest
            neighbour's. The two differ where weights are negative, and where rounding decides.

    Returns:
        `[F, N, N]`, from token i to candidate j, which is not symmetric; and `[F, N]`, from the nearest neighbour.
    """
    units = unit_vectors(features, reference_compatible=reference_compatible)
    cosines = units @ units.transpose(1, 2)
    if not reference_compatible:
        # A matrix product may round [i, j] and [j, i] differently, and would then decide between nearest neighbours.
        cosines = (cosines + cosines.transpose(1, 2)) / 2
    distances = (1 - cosines) * weights.unsqueeze(1)
    if reference_compatible:
        return distances, distances.topk(min(2, weights.shape[1]), dim=1, largest=False).values[:, -1]
    distances.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return distances, distances.amin(dim=1)


def greedy_max_min(distances: Tensor, nearest: Tensor, num_selected: int, chosen_value: float | None) -> Tensor:
    """Pick tokens one by one, each the farthest from those already picked.

    The first is the one whose nearest neighbour is the farthest. Ties go to the lowest index.

    Args:
        distances: `[F, N, N]`, see `calibrated_distances`.
        nearest: `[F, N]`, see there.
        num_selected: Picks per frame, from 1 to N.
        chosen_value: What a token already picked is worth to the next pick; None leaves it its value.

    Returns:
        `[F, num_selected]` int64 in the order of picking; with `chosen_value` None a token may repeat.
    """
    frames = torch.arange(len(distances), device=distances.device)
    picks = [nearest.argmax(dim=-1)]
    to_picked = torch.full_like(nearest, torch.inf)
    chosen = torch.zeros_like(nearest, dtype=torch.bool)
    for _ in range(num_selected - 1):
        to_picked = torch.minimum(to_picked, distances[frames, picks[-1]])
        chosen[frames, picks[-1]] = True
        worth = to_picked if chosen_value is None else to_picked.masked_fill(chosen, chosen_value)
        picks.append(worth.argmax(dim=-1))
    return torch.stack(picks, dim=-1)


def select_tokens(
    features: Tensor,
    scores: Tensor,
    segment_lengths: Sequence[int],
    *,
    num_selected: int,
    method: TokenSelectionMethod,
    reference_compatible: bool,
) -> Tensor:
    """Select tokens in every frame; decisions are made in float32 whatever the dtype of the input.

    Args:
        features: `[T, N, D]`, floating.
        scores: `[T, N]`, floating: the attention each token receives.
        segment_lengths: Segments of frames, for the event relevance of "attn_div_v2".
        num_selected: Tokens per frame; more than N selects all N.
        method: See `CompressionConfig.token_selection_method`.
        reference_compatible: "attn_div_v2" may select one token several times, zero vectors have no distance
            (NaN, which is picked first), and the weights carry the reference's scale.

    Returns:
        `[T, min(num_selected, N)]` int64, ascending per frame.
    """
    num_frames, num_tokens, _ = features.shape
    num_selected = min(num_selected, num_tokens)
    if num_selected == 0:
        return torch.empty(num_frames, 0, dtype=torch.int64, device=features.device)
    features, scores = features.float(), scores.float()
    if method == "attn":
        ranked = first_ranked(scores, num_selected, largest=True, reference_compatible=reference_compatible)
        return ranked.sort(dim=-1).values

    weights = torch.ones_like(scores)
    if method != "div":
        weights = scores * REFERENCE_SCALE if reference_compatible else scores
    if method == "attn_div_v2":
        weights = weights * event_relevance(features, segment_lengths)
    chosen_value: float | None = -torch.inf
    if reference_compatible:
        chosen_value = None if method == "attn_div_v2" else REFERENCE_CHOSEN

    picks = []
    for start in range(0, num_frames, FRAMES_AT_ONCE):
        frames = slice(start, start + FRAMES_AT_ONCE)
        distances, nearest = calibrated_distances(
            features[frames], weights[frames], reference_compatible=reference_compatible
        )
        picks.append(greedy_max_min(distances, nearest, num_selected, chosen_value))
    return torch.cat(picks).sort(dim=-1).values
