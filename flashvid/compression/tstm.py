"""TSTM: merge tokens that stay similar from frame to frame into trees (docs/flashvid.md, section 3)."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flashvid.compression.dyseg import Segments
from flashvid.compression.ranking import Counts, sum_by_group

# The similarity that the reference writes where no link is possible, and the least value of its raised threshold.
REFERENCE_NO_LINK = -1.0
REFERENCE_LEAST_THRESHOLD = -1.0 + 1e-6


@dataclass(frozen=True, eq=False)
class Links:
    """At most one parent, in the frame before, for each token of a clip.

    Attributes:
        similarity: `[T, N]`: cosine with the most similar free token of the frame before; a low marker without one.
        parent: `[T, N]` int64: that token's position in its frame.
    """

    similarity: Tensor
    parent: Tensor


@dataclass(frozen=True, eq=False)
class Forest:
    """The redundancy trees of a clip.

    Attributes:
        is_root: `[T, N]` bool: free and not linked. Exactly these are candidates for spatial merging.
        root: `[T * N]` int64: the root of each token's tree, as its index in the clip `f * N + n`.
        divisor: `[T * N]` int64: divides the sum of a root's tree. It is the size of the tree, or with
            `reference_compatible` one plus the root's direct children, which inflates deep trees.
    """

    is_root: Tensor
    root: Tensor
    divisor: Tensor


def sum_bags(features: Tensor, members: Tensor, bags: Tensor, num_bags: int, weights: Tensor) -> Tensor:
    """Return weighted sums of tokens, without a copy of the tokens and always in the same order.

    Args:
        features: `[R, D]`, float32 or float64.
        members: `[p]` int64 into R; may repeat.
        bags: `[p]` int64: the sum that each member contributes to.
        num_bags: Number of sums; a sum without members is 0.
        weights: `[p]` floating.

    Returns:
        `[num_bags, D]` in the dtype of `features`.
    """
    bags, order = bags.sort(stable=True)
    firsts = torch.searchsorted(bags, torch.arange(num_bags, device=bags.device))
    weights = weights[order].to(features.dtype)
    return functional.embedding_bag(members[order], features, firsts, mode="sum", per_sample_weights=weights)


def find_links(
    features: Tensor, inverse_lengths: Tensor, free: Tensor, segments: Segments, *, reference_compatible: bool
) -> Links:
    """Find the most similar free token of the frame before, for every free token; ties go to the lowest index.

    Args:
        features: `[T, N, D]`, float32 or float64.
        inverse_lengths: `[T, N]`, see `inverse_lengths`.
        free: `[T, N]` bool: not selected by ADTS.
        segments: Segments of the T frames; the first frame of each has no links.
        reference_compatible: Mark impossible links with -1, as the reference does, instead of minus infinity.
    """
    no_link = REFERENCE_NO_LINK if reference_compatible else -torch.inf
    similarity, parent = features.new_full(free.shape, no_link), torch.zeros_like(free, dtype=torch.int64)
    # The first frame has no frame before it.
    before, later = slice(None, -1), slice(1, None)
    scale = inverse_lengths.where(free, 0.0)[before].unsqueeze(1)
    # No token links to one that is not free: the logarithm of false is minus infinity. Adding it is many times faster
    # than filling by a mask.
    cosines = torch.bmm(features[later], features[before].mT).mul_(scale).add_(free[before].log().unsqueeze(1))
    best = similarity[later]
    torch.max(cosines, dim=-1, out=(best, parent[later]))
    follows = torch.from_numpy(np.diff(segments.numbers)[:, None] == 0).to(free.device)
    best.mul_(inverse_lengths[later]).masked_fill_(~(free[later] & follows), no_link)
    if reference_compatible:
        # Needed where no token of the frame before is free.
        best.clamp_min_(no_link)
    return Links(similarity, parent)


def choose_links(
    similarity: Tensor, segments: Segments, threshold: float, min_roots: Counts, *, reference_compatible: bool
) -> Tensor:
    """Return which tokens join their parent: those above the threshold, or fewer if too few tokens would remain.

    Args:
        similarity: `[T, N]`, see `Links`.
        segments: Segments of the T frames.
        threshold: Tokens with a strictly higher similarity are linked.
        min_roots: `[S]`: the least number of tokens without a link in each segment, selected ones included.
            Where the threshold leaves fewer, it is raised to the similarity at that rank.
        reference_compatible: Keep the raised threshold above the marker of impossible links.

    Returns:
        `[T, N]` bool.
    """
    sizes = segments.sizes * similarity.shape[1]
    max_links = sizes - min_roots
    num_links = sum_by_group((similarity > threshold).sum(dim=1).cpu().numpy(), segments.numbers, len(sizes))
    values = similarity.flatten()
    groups = torch.from_numpy(segments.numbers.repeat(similarity.shape[1])).to(values.device)
    # Segment after segment, and within each the largest similarity first; ties in the order of the tokens.
    order = values.sort(descending=True, stable=True).indices
    order = order[groups[order].sort(stable=True).indices]
    # Per frame, `[T, 1]`, from here on.
    last_link = (np.cumsum(sizes) - min_roots - 1).clip(0, len(values) - 1)[segments.numbers, None]
    raised = values[order[torch.from_numpy(last_link).to(values.device)]]
    if reference_compatible:
        raised = raised.clamp_min(REFERENCE_LEAST_THRESHOLD)
        # With a threshold below the marker, the marker itself would count as a link.
        threshold = max(threshold, REFERENCE_NO_LINK)
    # The threshold where it leaves enough roots, infinity where no link is permitted, NaN elsewhere.
    fixed = np.where(num_links <= max_links, threshold, np.where(max_links <= 0, np.inf, np.nan))
    fixed = fixed[segments.numbers, None]
    # Strict, so the token at that rank itself stays a root: one link fewer than the floor permits.
    thresholds = raised.where(torch.from_numpy(np.isnan(fixed)).to(raised.device), torch.from_numpy(fixed).to(raised))
    return similarity > thresholds


def grow_forest(
    features: Tensor,
    inverse_lengths: Tensor,
    free: Tensor,
    segments: Segments,
    threshold: float,
    min_roots: Counts,
    *,
    dtype: torch.dtype,
    reference_compatible: bool,
) -> Forest:
    """Link the free tokens of every segment over time; each tree's root is its earliest token.

    Args:
        features: `[T, N, D]`, float32 or float64.
        inverse_lengths: `[T, N]`, see `inverse_lengths`.
        free: `[T, N]` bool: not selected by ADTS. Other tokens neither link nor are linked to.
        segments: Segments of the T frames.
        threshold: The temporal threshold; from 1 on no token is linked.
        min_roots: `[S]`, see `choose_links`.
        dtype: Dtype that similarities are rounded to; the model's dtype for the reference.
        reference_compatible: See `Forest.divisor`.
    """
    root = torch.arange(free.numel(), device=features.device)
    if max(segments.lengths) == 1 or threshold >= 1:
        return Forest(free, root, torch.ones_like(root))
    links = find_links(features, inverse_lengths, free, segments, reference_compatible=reference_compatible)
    linked = choose_links(
        links.similarity.to(dtype), segments, threshold, min_roots, reference_compatible=reference_compatible
    )
    num_frames, num_tokens = free.shape
    frame_before = torch.from_numpy(np.arange(-1, num_frames - 1)[:, None] * num_tokens).to(root.device)
    parent = (links.parent + frame_before).flatten()
    root = above = parent.where(linked.flatten(), root)
    # Each step doubles how far up the tree a token points.
    for _ in range((max(segments.lengths) - 1).bit_length()):
        root = root[root]
    # A root points to itself. Before these steps only its direct children point to it too, afterwards its whole tree.
    divisor = (above if reference_compatible else root).bincount(minlength=len(root))
    return Forest(free & ~linked, root, divisor)
