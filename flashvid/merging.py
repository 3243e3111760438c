"""TSTM: merge tokens that stay alike from frame to frame into trees (paper: TSTM; spec 3)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashvid.segmentation import unit_vectors

# What the reference writes where no link is possible, and the least it lets the floor lower its threshold to.
REFERENCE_NO_LINK = -1.0
REFERENCE_LEAST_THRESHOLD = -1.0 + 1e-6


@dataclass(frozen=True, eq=False)
class Links:
    """At most one parent, in the frame before, for each token of a segment."""

    similarity: Tensor
    """`[L, N]`: cosine with the most similar free token of the frame before; a low marker where there is none."""
    parent: Tensor
    """`[L, N]` int64: that token's position in its frame."""


@dataclass(frozen=True, eq=False)
class Trees:
    """The redundancy trees of a segment of L frames."""

    values: Tensor
    """`[L, N, D]`: the merged feature at roots; meaningless elsewhere."""
    is_root: Tensor
    """`[L, N]` bool: free and not linked. Exactly these are candidates for spatial merging."""
    root: Tensor
    """`[L, N]` int64: the root of each token's tree, as its position in the segment `f * N + n`."""


def add_rows(target: Tensor, rows: Tensor, values: Tensor) -> None:
    """`target[rows] += values`, rows may repeat, in place and in the same order every time.

    Args:
        target: `[R, ...]`, changed.
        rows: `[V]` int64 into R.
        values: `[V, ...]` in the target's dtype.
    """
    # Each device has one of the two that does not depend on which thread comes first.
    if target.is_cuda:
        target.index_put_((rows,), values, accumulate=True)
    else:
        target.index_add_(0, rows, values)


def find_links(features: Tensor, free: Tensor, *, reference_compatible: bool) -> Links:
    """The most similar free token of the frame before, for every free token; the first one on ties.

    Args:
        features: `[L, N, D]`, floating; cosines are taken in this dtype.
        free: `[L, N]` bool: not selected by ADTS.
        reference_compatible: Mark impossible links with -1, the reference's way, rather than minus infinity.
    """
    no_link = REFERENCE_NO_LINK if reference_compatible else -torch.inf
    units = unit_vectors(features, reference_compatible=reference_compatible)
    similarity = units.new_full(free.shape, no_link)
    parent = torch.zeros_like(free, dtype=torch.int64)
    for frame in range(1, len(features)):
        cosines = (units[frame] @ units[frame - 1].T).masked_fill(~free[frame - 1], no_link)
        best, parent[frame] = cosines.max(dim=-1)
        similarity[frame] = best.masked_fill(~free[frame], no_link)
    return Links(similarity, parent)


def choose_links(similarity: Tensor, threshold: float, min_roots: int, *, reference_compatible: bool) -> Tensor:
    """Which tokens join their parent: those above the threshold, fewer if too few tokens would remain.

    Args:
        similarity: `[L, N]`, see `Links`.
        threshold: Strictly more similar tokens are linked.
        min_roots: The least number of tokens without a link, selected ones included. If the threshold leaves
            fewer, it is raised to the similarity at that rank.
        reference_compatible: Keep the raised threshold above the marker of impossible links.

    Returns:
        `[L, N]` bool.
    """
    linked = similarity > threshold
    max_links = similarity.numel() - min_roots
    if int(linked.sum()) <= max_links:
        return linked
    if max_links <= 0:
        return torch.zeros_like(linked)
    raised = similarity.flatten().sort(descending=True).values[max_links - 1]
    if reference_compatible:
        raised = raised.clamp_min(REFERENCE_LEAST_THRESHOLD)
    # Strictly again, so the token at that rank itself stays: one link fewer than the floor permits.
    return similarity > raised


def merge_trees(
    features: Tensor, free: Tensor, threshold: float, min_roots: int, *, reference_compatible: bool
) -> Trees:
    """Link the free tokens of a segment over time and merge each tree into its root, its earliest token.

    Args:
        features: `[L, N, D]`, floating, not changed. Similarities and sums are in this dtype when
            `reference_compatible`, otherwise at least in float32.
        free: `[L, N]` bool: not selected by ADTS. Other tokens neither link nor are linked to.
        threshold: The temporal threshold; from 1 on nothing is linked.
        min_roots: See `choose_links`.
        reference_compatible: A root is the sum of its tree over one plus its direct children, which inflates
            deep trees. Otherwise it is the mean of its tree.
    """
    if not reference_compatible:
        features = features.to(torch.promote_types(features.dtype, torch.float32))
    num_frames, num_tokens, _ = features.shape
    root = torch.arange(num_frames * num_tokens, device=features.device).view(num_frames, num_tokens)
    if num_frames == 1 or threshold >= 1:
        return Trees(features, free, root)

    links = find_links(features, free, reference_compatible=reference_compatible)
    linked = choose_links(links.similarity, threshold, min_roots, reference_compatible=reference_compatible)
    sums, counts = features.clone(), features.new_ones(num_frames, num_tokens)
    for frame in range(num_frames - 1, 0, -1):
        children = linked[frame].nonzero().flatten()
        parents = links.parent[frame, children]
        sizes = counts[frame, children]
        add_rows(sums[frame - 1], parents, sums[frame, children])
        add_rows(counts[frame - 1], parents, torch.ones_like(sizes) if reference_compatible else sizes)
    for frame in range(1, num_frames):
        root[frame] = torch.where(linked[frame], root[frame - 1, links.parent[frame]], root[frame])
    return Trees(sums / counts.unsqueeze(-1), free & ~linked, root)
