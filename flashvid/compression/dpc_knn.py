"""DPC-kNN: merge the candidates of each frame into clusters (docs/flashvid.md, section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flashvid.compression.ranking import Counts, first_ranked

MAX_NEIGHBOURS = 7
# Squared distances are computed from inner products, with an error of about ROUNDING times the largest squared length.
# Frames whose nearest neighbours are not TIMES_ROUNDING times farther apart are computed again in float64 (unlike in
# the reference), in FLOAT64_PARTS parts to limit memory.
ROUNDING = 8 * torch.finfo(torch.float32).eps
TIMES_ROUNDING = 100
FLOAT64_PARTS = 8


@dataclass(frozen=True, eq=False)
class Layout:
    """Row layout of the tokens of F frames of different sizes in one matrix `[P, D]`.

    Frames are in descending order of size. They are split in two parts, larger and smaller frames, where that saves
    most, and each part is padded to its largest frame: its frames are multiplied together, with little padding.

    Attributes:
        sizes: `[F]`, descending: the tokens of each frame; they fill its first rows.
        padded: `[F]`: the rows of each frame.
        first_rows: `[F]`: the first row of each frame.
        num_large: Frames in the first part; the second may be empty.
    """

    sizes: Counts
    padded: Counts
    first_rows: Counts
    num_large: int

    @classmethod
    def of(cls, sizes: Counts) -> Layout:
        """Return the layout of at least one frame with these sizes, `[F]`, descending."""
        num_large = np.arange(1, len(sizes) + 1)
        small = np.append(sizes[1:], 0)
        cost = num_large * sizes[0] ** 2 + num_large[::-1] * small**2 - small**2
        best = int(cost.argmin()) + 1
        padded = np.where(num_large <= best, sizes[0], small[best - 1])
        return cls(sizes, padded, np.cumsum(padded) - padded, best)

    @property
    def num_rows(self) -> int:
        """Return P."""
        return int(self.padded.sum())

    def blocks(self, tokens: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield the parts of a matrix `[P, D]`: their frames, and a view `[f, m, D]` of their rows."""
        for frames in (slice(0, self.num_large), slice(self.num_large, len(self.sizes))):
            padded = self.padded[frames]
            if len(padded) > 0:
                rows = tokens.narrow(0, int(self.first_rows[frames][0]), int(padded.sum()))
                yield frames, rows.view(len(padded), int(padded[0]), -1)


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of the tokens of each of F frames; C clusters in all, frame after frame.

    Attributes:
        ids: `[P]` int64: the cluster of the token in each row, from 0 to C - 1; meaningless in padding rows.
        centers: `[C]` int64: the row of the token each cluster is centred on, the best centre of each frame first.
    """

    ids: Tensor
    centers: Tensor


def inner_products(tokens: Tensor, layout: Layout) -> Tensor:
    """Return the inner products within each frame: `[P, D]` to `[F, m, m]`, symmetric to the last bit.

    The input is **changed** as in `dpc_knn`. Entries beyond the tokens of a frame are arbitrary finite values.
    """
    most = int(layout.sizes[0])
    products = tokens.new_zeros(len(layout.sizes), most, most)
    for frames, own in layout.blocks(tokens):
        size = own.shape[1]
        own.sub_(own[:, :1].clone())
        torch.bmm(own, own.mT, out=products[frames, :size, :size])
    # Otherwise rounding would decide between mutual neighbours.
    return torch.maximum(products, products.mT)


def squared_distances(products: Tensor, width: int, beyond: Tensor) -> Tensor:
    """Return the squared distances between the tokens of a frame, divided by the width.

    Args:
        products: `[F, m, m]`, symmetric, finite: inner products.
        width: D.
        beyond: `[F, m]`: 0 for a token of the frame, infinity for padding.

    Returns:
        `[F, m, m]`, symmetric, 0 on the diagonal, infinite to and from padding.
    """
    squares = products.diagonal(dim1=1, dim2=2) + beyond
    distances = (squares.unsqueeze(1) + squares.unsqueeze(2)).sub_(products, alpha=2).div_(width).clamp_min_(0)
    distances.diagonal(dim1=1, dim2=2).zero_()
    return distances


def neighbour_spread(distances: Tensor, num_neighbours: Counts) -> Tensor:
    """Return the mean of each token's smallest squared distances, that to itself included.

    Args:
        distances: `[F, m, m]`, squared.
        num_neighbours: `[F]`, from 1 to 7 and to m.

    Returns:
        `[F, m]`.
    """
    most = int(num_neighbours.max())
    uncounted = torch.from_numpy(np.arange(most) >= num_neighbours[:, None, None]).to(distances.device)
    nearest = distances.topk(most, largest=False).values.masked_fill_(uncounted, 0.0)
    return nearest.sum(dim=-1) / torch.from_numpy(num_neighbours[:, None]).to(distances.device)


def distances_and_scores(
    tokens: Tensor, layout: Layout, num_neighbours: Counts, *, reference_compatible: bool
) -> tuple[Tensor, Tensor]:
    """Return the distances between tokens, and each token's score as a centre: dense, and far from denser tokens.

    Args:
        tokens: `[P, D]`, see `dpc_knn`.
        layout: Row layout of the tokens.
        num_neighbours: `[F]`, from 1: neighbours that determine a token's density, itself included.
        reference_compatible: See `dpc_knn`.

    Returns:
        `[F, m, m]`: distances, infinite to and from padding; and `[F, m]`: scores, minus infinity for padding.
    """
    device, width, most = tokens.device, tokens.shape[-1], int(layout.sizes[0])
    outside = torch.from_numpy(np.arange(most) >= layout.sizes[:, None]).to(device)
    beyond = torch.zeros_like(outside, dtype=tokens.dtype).masked_fill_(outside, torch.inf)
    distances = squared_distances(inner_products(tokens, layout), width, beyond)
    largest = distances.nan_to_num(posinf=0.0).amax(dim=(1, 2))
    spread = neighbour_spread(distances, num_neighbours)
    if not reference_compatible:
        unsure = spread.amin(dim=-1) < largest * (ROUNDING * TIMES_ROUNDING)
        frames = np.flatnonzero(unsure.cpu().numpy() & (num_neighbours > 1))
        if len(frames) > 0:
            again = torch.from_numpy(frames).to(device)
            products = exact_products(tokens, layout.first_rows[frames], most)
            # Only the differences need float64.
            exact = squared_distances(products, width, beyond[again]).to(distances.dtype)
            spread[again] = neighbour_spread(exact, num_neighbours[frames])
            distances[again] = exact
    distances.sqrt_()
    density = torch.exp(-spread) if reference_compatible else -spread
    not_denser = density.unsqueeze(1) <= density.unsqueeze(2)
    separation = distances.masked_fill(not_denser, torch.inf).amin(dim=-1)
    # The densest token of a frame has the largest distance as its separation.
    separation = torch.minimum(separation, largest.sqrt_().unsqueeze(-1))
    scores = separation * density if reference_compatible else separation.log_() + density
    return distances, scores.masked_fill_(outside, -torch.inf)


def exact_products(tokens: Tensor, first_rows: Counts, size: int) -> Tensor:
    """Return float64 inner products within the `size` rows from each first row of `[P, D]`: `[f, size, size]`."""
    rows = (first_rows[:, None] + np.arange(size)).clip(max=len(tokens) - 1)
    products = tokens.new_empty(len(rows), size, size, dtype=torch.float64)
    places, step = torch.from_numpy(rows).to(tokens.device), -(-len(rows) // FLOAT64_PARTS)
    for part, out in zip(torch.split(places, step), torch.split(products, step), strict=True):
        own = tokens[part].double()
        torch.bmm(own, own.mT, out=out)
        del own  # frees it before the next one is made
    return products


def rank_as_reference(scores: Tensor, sizes: Counts, counts: Counts) -> Tensor:
    """Return the best tokens of each frame with ties in the order of `torch.topk`, which depends on the input's size.

    Frames with ties are ranked again, together with frames of the same numbers of tokens and clusters. Ties come from
    equal tokens and from densities that underflow.

    Args:
        scores: `[F, m]`, minus infinity for padding.
        sizes: `[F]`: tokens of each frame.
        counts: `[F]`: clusters of each frame, from 1.

    Returns:
        `[F, max(counts)]` int64, best first; entries beyond the clusters of a frame are arbitrary.
    """
    most = int(counts.max())
    ranked, order = scores.sort(descending=True, stable=True)
    centers = order[:, :most]
    # True at the ranks of each frame whose next token has the same score, if at least the first of the two is a centre.
    ties = (ranked[:, 1:] == ranked[:, :-1]).cpu().numpy()
    ties &= np.arange(ties.shape[1]) < np.minimum(counts, sizes - 1)[:, None]
    tied = np.flatnonzero(ties.any(axis=1))
    for size, count in sorted({*zip(sizes[tied].tolist(), counts[tied].tolist(), strict=True)}):
        alike = torch.from_numpy(tied[(sizes[tied] == size) & (counts[tied] == count)]).to(scores.device)
        centers[alike, :count] = scores[alike, :size].topk(count).indices
    return centers


def dpc_knn(tokens: Tensor, layout: Layout, cluster_counts: Counts, *, reference_compatible: bool) -> Clusters:
    """Cluster the tokens of each frame around centres that are dense and far from denser tokens.

    A token counts among its own neighbours. The reference adds random noise to densities; this function does not.

    Args:
        tokens: `[P, D]`, floating, **changed**: shifted so that each frame's first token is 0, which keeps distances
            and reduces rounding errors. Padding rows may hold any finite values.
        layout: Row layout of the tokens.
        cluster_counts: `[F]`, from 1 to the frame's tokens.
        reference_compatible: As in the reference, densities underflow to 0 where tokens are far apart. Otherwise
            logarithms of the same scores are compared.

    Returns:
        The clusters of all frames.
    """
    device, most, most_clusters = tokens.device, int(layout.sizes[0]), int(cluster_counts.max())
    num_neighbours = cluster_counts.clip(max=MAX_NEIGHBOURS)
    distances, scores = distances_and_scores(tokens, layout, num_neighbours, reference_compatible=reference_compatible)
    if reference_compatible:
        centers = rank_as_reference(scores, layout.sizes, cluster_counts)
    else:
        # A token's score may be minus infinity too, but padding comes after the tokens, so tokens win the tie.
        centers = first_ranked(scores, most_clusters, largest=True, reference_compatible=False)

    is_center = np.arange(most_clusters) < cluster_counts[:, None]
    to_center = distances[torch.from_numpy(np.arange(len(distances))[:, None]).to(device), centers]
    # A centre belongs to its own cluster, also where another centre is at the same place.
    to_center.scatter_(2, centers.unsqueeze(2), -1.0)
    to_center.masked_fill_(torch.from_numpy(~is_center[:, :, None]).to(device), torch.inf)
    first_clusters = (np.cumsum(cluster_counts) - cluster_counts)[:, None]
    ids = to_center.argmin(dim=1) + torch.from_numpy(first_clusters).to(device)
    has_row = torch.from_numpy(np.arange(most) < layout.padded[:, None]).to(device)
    rows = centers + torch.from_numpy(layout.first_rows[:, None]).to(device)
    return Clusters(ids[has_row], rows[torch.from_numpy(is_center).to(device)])
