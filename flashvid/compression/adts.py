"""ADTS: select important and diverse tokens of each frame (docs/flashvid.md, section 2)."""

import torch
from torch import Tensor
from torch.nn import functional

from flashvid.compression.dyseg import Segments
from flashvid.compression.products import gram
from flashvid.compression.ranking import first_ranked
from flashvid.config import TokenSelectionMethod

# The reference scales its weights so that its marker of a selected token, -1, is below every candidate.
REFERENCE_SCALE = 1e6
REFERENCE_CHOSEN = -1.0
# Cosine distances up to this are rounding errors (of a float32 dot product over a model's width) and count as 0, so
# that equal tokens always tie and the rule for ties decides.
NO_DISTANCE = 1e-6


def event_relevance(features: Tensor, frame_features: Tensor, segments: Segments) -> Tensor:
    """Return how much each token agrees with its segment.

    This is its dot product with the mean of the segment's frame means, not normalised and possibly negative.

    Args:
        features: `[T, N, D]`, floating.
        frame_features: `[T, D]`, same dtype: the mean of each frame.
        segments: Segments of the T frames; a single segment of all frames gives the relevance to the clip.

    Returns:
        `[T, N]`, same dtype.
    """
    sums = frame_features.new_zeros(len(segments.lengths), frame_features.shape[-1])
    sums.index_add_(0, segments.of_frame, frame_features)
    centres = (sums / torch.from_numpy(segments.sizes.clip(min=1)[:, None]).to(sums))[segments.of_frame]
    # Row times matrix, because matrix times column takes five times as long here.
    return torch.bmm(centres.unsqueeze(1), features.mT).squeeze(1)


def token_weights(
    scores: Tensor, relevance: Tensor | None, method: TokenSelectionMethod, *, reference_compatible: bool
) -> Tensor:
    """Return the weight of each candidate: `[T, N]` float32.

    Args:
        scores: `[T, N]`: the attention each token receives.
        relevance: `[T, N]`, see `event_relevance`; used by "attn_div_v2".
        method: See `CompressionConfig.token_selection_method`.
        reference_compatible: Multiply by the reference's scale.
    """
    weights = scores.float()
    if method == "div":
        return torch.ones_like(weights)
    if reference_compatible:
        weights = weights * REFERENCE_SCALE
    return weights if relevance is None else weights * relevance.float()


def calibrated_distances(
    features: Tensor, inverse_lengths: Tensor, weights: Tensor, *, reference_compatible: bool
) -> tuple[Tensor, Tensor]:
    """Return the distance of each candidate from each other token of its frame, times the candidate's weight.

    Args:
        features: `[T, N, D]`, float32 or float64.
        inverse_lengths: `[T, N]`, see `products.inverse_lengths`.
        weights: `[T, N]` float32.
        reference_compatible: Use the second smallest distance to a candidate, its own included, as that of its nearest
            neighbour. The two differ where weights are negative.

    Returns:
        `[T, N, N]` float32 from token i to candidate j, not symmetric; and `[T, N]` from the nearest neighbour.
        Without `reference_compatible` a candidate's distance to itself is minus infinity, so that a selected token is
        never the farthest.
    """
    # Scaling N x N products instead of N x D features saves a copy of the features. Both lengths are applied at once,
    # which keeps the matrix symmetric.
    scale = inverse_lengths.unsqueeze(2) * -inverse_lengths.unsqueeze(1)
    distances = functional.threshold(gram(features).mul_(scale).add_(1.0), NO_DISTANCE, 0.0, inplace=True)
    del scale
    distances = distances.float().mul_(weights.unsqueeze(1))
    if reference_compatible:
        return distances, distances.topk(min(2, weights.shape[1]), dim=1, largest=False).values[:, -1]
    diagonal = distances.diagonal(dim1=1, dim2=2)
    diagonal.fill_(torch.inf)
    nearest = distances.amin(dim=1)
    diagonal.fill_(-torch.inf)
    return distances, nearest


def greedy_max_min(distances: Tensor, nearest: Tensor, num_selected: int, chosen_value: float | None) -> Tensor:
    """Select tokens one by one, each the farthest from those already selected.

    The first is the one whose nearest neighbour is the farthest. Ties go to the lowest index. Each step depends on the
    one before, so the loop is unavoidable: three operations per step, for all frames at once.

    Args:
        distances: `[T, N, N]`, see `calibrated_distances`.
        nearest: `[T, N]`, see `calibrated_distances`.
        num_selected: Tokens per frame, from 1 to N.
        chosen_value: Value of a selected token in later steps; None leaves it to `distances`.

    Returns:
        `[T, num_selected]` int64 in the order of selection; a token repeats if `distances` and `chosen_value` permit.
    """
    frames = torch.arange(len(distances), device=distances.device)
    # The first pick fills the places of later ones, so that at every step all places hold selected tokens.
    picks = nearest.argmax(dim=-1).repeat(num_selected, 1)
    chosen = picks.T
    last, *later = picks.unbind()
    to_picked = worth = torch.full_like(nearest, torch.inf)
    for pick in later:
        torch.minimum(to_picked, distances[frames, last], out=to_picked)
        if chosen_value is not None:
            worth = to_picked.scatter(1, chosen, chosen_value)
        last = torch.argmax(worth, dim=-1, out=pick)
    return chosen


def select_tokens(
    features: Tensor,
    inverse_lengths: Tensor,
    scores: Tensor,
    relevance: Tensor | None,
    *,
    num_selected: int,
    method: TokenSelectionMethod,
    reference_compatible: bool,
) -> Tensor:
    """Select tokens in every frame, with float32 decisions for any dtype of the input.

    Args:
        features: `[T, N, D]`, float32 or float64.
        inverse_lengths: `[T, N]`, see `products.inverse_lengths`.
        scores: `[T, N]`, floating: the attention each token receives.
        relevance: `[T, N]`, see `event_relevance`; without it "attn_div_v2" equals "attn_div".
        num_selected: Tokens per frame; more than N selects all N.
        method: See `CompressionConfig.token_selection_method`.
        reference_compatible: "attn_div_v2" may select one token several times, the distances of zero vectors are NaN
            (which is selected first), and weights have the reference's scale.

    Returns:
        `[T, min(num_selected, N)]` int64 in the order of selection. A smaller `num_selected` gives the first of these.
    """
    num_selected = min(num_selected, features.shape[1])
    if num_selected == 0:
        return torch.empty(len(features), 0, dtype=torch.int64, device=features.device)
    if method == "attn":
        return first_ranked(scores.float(), num_selected, largest=True, reference_compatible=reference_compatible)
    weights = token_weights(scores, relevance, method, reference_compatible=reference_compatible)
    distances, nearest = calibrated_distances(
        features, inverse_lengths, weights, reference_compatible=reference_compatible
    )
    chosen_value = None
    if reference_compatible and method != "attn_div_v2":
        if bool(distances.amin() >= 0):
            # As a token's distance to itself, the marker has the same effect with one operation less per step.
            distances.diagonal(dim1=1, dim2=2).fill_(REFERENCE_CHOSEN)
        else:
            # With zero vectors, whose distances are NaN, or negative scores, the marker is written at each step.
            chosen_value = REFERENCE_CHOSEN
    return greedy_max_min(distances, nearest, num_selected, chosen_value)
