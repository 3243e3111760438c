"""ADTS: select the tokens of each frame that matter and that differ (paper: ADTS; spec 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from flashvid.config import TokenSelectionMethod
from flashvid.products import SMALLEST_LENGTH, gram
from flashvid.ranking import first_ranked
from flashvid.segmentation import Segments

# The reference scales its weights so that its marker of a chosen token, -1, lies below every candidate.
REFERENCE_SCALE = 1e6
REFERENCE_CHOSEN = -1.0


def event_relevance(features: Tensor, frame_features: Tensor, segments: Segments) -> Tensor:
    """How much each token agrees with its segment.

    This is its dot product with the mean of the segment's frame means, not normalised and possibly negative.

    Args:
        features: `[T, N, D]`, floating.
        frame_features: `[T, D]`, same dtype: the mean of each frame.
        segments: Of the T frames; one of all frames makes it the relevance to the clip.

    Returns:
        `[T, N]`, same dtype.
    """
    sums = frame_features.new_zeros(len(segments.lengths), frame_features.shape[-1])
    sums.index_add_(0, segments.of_frame, frame_features)
    lengths = torch.from_numpy(segments.sizes.clip(min=1)).to(sums)
    centres = (sums / lengths.unsqueeze(-1))[segments.of_frame]
    return torch.bmm(features, centres.unsqueeze(-1)).squeeze(-1)


def token_weights(
    scores: Tensor, relevance: Tensor | None, method: TokenSelectionMethod, *, reference_compatible: bool
) -> Tensor:
    """What each candidate is worth: `[T, N]` float32.

    Args:
        scores: `[T, N]`: the attention each token receives.
        relevance: `[T, N]`, see `event_relevance`; used by "attn_div_v2".
        method: See `CompressionConfig.token_selection_method`.
        reference_compatible: With the reference's scale.
    """
    weights = scores.float()
    if method == "div":
        return torch.ones_like(weights)
    if reference_compatible:
        weights = weights * REFERENCE_SCALE
    return weights if relevance is None else weights * relevance.float()


def calibrated_distances(features: Tensor, weights: Tensor, *, reference_compatible: bool) -> tuple[Tensor, Tensor]:
    """How far each candidate is from each other token of its frame, times what the candidate is worth.

    Args:
        features: `[T, N, D]`, float32 or float64.
        weights: `[T, N]` float32.
        reference_compatible: Take the second smallest distance to a candidate, its own included, for its nearest
            neighbour's. The two differ where weights are negative, and where rounding decides.

    Returns:
        `[T, N, N]` float32, from token i to candidate j, which is not symmetric; and `[T, N]`, from the nearest
        neighbour. Without `reference_compatible` a candidate's distance to itself is minus infinity, so that one
        already picked is never the farthest.
    """
    products = gram(features)
    squares = products.diagonal(dim1=1, dim2=2).double()
    # Scaling N x N products rather than N x D features saves a copy of the features. One root of a product, in float64
    # where it does not overflow, is exact for equal tokens: their distance is 0, not what rounding leaves.
    lengths = (squares.unsqueeze(1) * squares.unsqueeze(2)).sqrt_().to(products.dtype)
    if not reference_compatible:
        lengths.clamp_min_(SMALLEST_LENGTH**2)
    cosines = products.div_(lengths).float()
    distances = cosines.neg_().add_(1.0).mul_(weights.unsqueeze(1))
    if reference_compatible:
        return distances, distances.topk(min(2, weights.shape[1]), dim=1, largest=False).values[:, -1]
    diagonal = distances.diagonal(dim1=1, dim2=2)
    diagonal.fill_(torch.inf)
    nearest = distances.amin(dim=1)
    diagonal.fill_(-torch.inf)
    return distances, nearest


def greedy_max_min(distances: Tensor, nearest: Tensor, num_selected: int, chosen_value: float | None) -> Tensor:
    """Pick tokens one by one, each the farthest from those already picked.

    The first is the one whose nearest neighbour is the farthest. Ties go to the lowest index. Each pick depends on
    the one before, so this loop is the one that has to be: three operations a pick, for all frames at once.

    Args:
        distances: `[T, N, N]`, see `calibrated_distances`.
        nearest: `[T, N]`, see there.
        num_selected: Picks per frame, from 1 to N.
        chosen_value: What a token already picked is worth to the next pick; None leaves it to `distances`.

    Returns:
        `[T, num_selected]` int64 in the order of picking; a token repeats where `distances` and `chosen_value` let it.
    """
    frames = torch.arange(len(distances), device=distances.device)
    picks = [nearest.argmax(dim=-1)]
    chosen = None if chosen_value is None else torch.zeros_like(nearest, dtype=torch.bool)
    to_picked: Tensor | None = None
    for _ in range(num_selected - 1):
        row = distances[frames, picks[-1]]
        to_picked = row if to_picked is None else torch.minimum(to_picked, row, out=to_picked)
        worth = to_picked
        if chosen is not None and chosen_value is not None:
            chosen[frames, picks[-1]] = True
            worth = to_picked.masked_fill(chosen, chosen_value)
        picks.append(worth.argmax(dim=-1))
    return torch.stack(picks, dim=-1)


def select_tokens(
    features: Tensor,
    scores: Tensor,
    relevance: Tensor | None,
    *,
    num_selected: int,
    method: TokenSelectionMethod,
    reference_compatible: bool,
) -> Tensor:
    """Select tokens in every frame; decisions are made in float32 whatever the dtype of the input.

    Args:
        features: `[T, N, D]`, float32 or float64.
        scores: `[T, N]`, floating: the attention each token receives.
        relevance: `[T, N]`, see `event_relevance`; needed by "attn_div_v2", which without it is "attn_div".
        num_selected: Tokens per frame; more than N selects all N.
        method: See `CompressionConfig.token_selection_method`.
        reference_compatible: "attn_div_v2" may select one token several times, zero vectors have no distance
            (NaN, which is picked first), and the weights carry the reference's scale.

    Returns:
        `[T, min(num_selected, N)]` int64 in the order of selection: fewer tokens are the first of more.
    """
    num_selected = min(num_selected, features.shape[1])
    if num_selected == 0:
        return torch.empty(len(features), 0, dtype=torch.int64, device=features.device)
    if method == "attn":
        return first_ranked(scores.float(), num_selected, largest=True, reference_compatible=reference_compatible)
    weights = token_weights(scores, relevance, method, reference_compatible=reference_compatible)
    distances, nearest = calibrated_distances(features, weights, reference_compatible=reference_compatible)
    overwritten = reference_compatible and method != "attn_div_v2"
    return greedy_max_min(distances, nearest, num_selected, REFERENCE_CHOSEN if overwritten else None)
