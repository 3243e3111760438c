"""DPC-kNN: merge the candidates of each frame into a number of clusters (paper: spatial part of TSTM; spec 4)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from flashvid.ranking import Counts, first_ranked

MAX_NEIGHBOURS = 7
# Squared distances come from inner products, wrong by about this share of the largest squared length. Frames where
# neighbours are not this many times farther apart are done again in float64 (which the reference does not), in so
# many parts that memory is bounded.
ROUNDING = 8 * torch.finfo(torch.float32).eps
TIMES_ROUNDING = 100
FLOAT64_PARTS = 8
LAYOUT_PARTS = 4


@dataclass(frozen=True, eq=False)
class Layout:
    """Rows for the tokens of F frames of different sizes in one matrix `[P, D]`.

    Frames come by descending size, in a few parts. Those of one part are padded to its first, so that they can be
    multiplied together and little is multiplied in vain.
    """

    sizes: Counts
    """`[F]`, descending: the tokens of each frame, its first rows."""
    padded: Counts
    """`[F]`: the rows of each frame."""
    first_rows: Counts
    """`[F]`: where they begin."""
    borders: tuple[int, ...]
    """The first frame of each part, and F."""

    @classmethod
    def of(cls, sizes: Counts) -> Layout:
        """For frames of these sizes, `[F]`, descending, of which there is at least one."""
        borders = np.linspace(0, len(sizes), min(LAYOUT_PARTS, len(sizes)) + 1).astype(np.int64)
        padded = sizes[borders[:-1]].repeat(np.diff(borders))
        return cls(sizes, padded, np.cumsum(padded) - padded, tuple(borders.tolist()))

    @property
    def num_rows(self) -> int:
        """P."""
        return int(self.padded.sum())

    def blocks(self, tokens: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """The parts of a matrix `[P, D]`: their frames, and a view `[f, m, D]` of their rows."""
        for start, end in pairwise(self.borders):
            shape = end - start, int(self.padded[start]), tokens.shape[1]
            yield slice(start, end), tokens.narrow(0, int(self.first_rows[start]), shape[0] * shape[1]).view(shape)


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of the tokens of each of F frames; C clusters in all, frame after frame."""

    ids: Tensor
    """`[P]` int64: the cluster of the token in each row, from 0 to C - 1; meaningless in rows that only pad."""
    centers: Tensor
    """`[C]` int64: the row of the token each cluster is centred on; in each frame the best first."""


def inner_products(tokens: Tensor, layout: Layout) -> Tensor:
    """Within each frame: `[P, D]`, **changed** as `dpc_knn` says, to `[F, m, m]`, symmetric to the last bit.

    Beyond the tokens of a frame there may be anything finite.
    """
    most = int(layout.sizes[0])
    products = tokens.new_zeros(len(layout.sizes), most, most)
    for frames, own in layout.blocks(tokens):
        size = own.shape[1]
        own.sub_(own[:, :1].clone())
        torch.bmm(own, own.mT, out=products[frames, :size, :size])
    # Rounding would decide between mutual neighbours.
    return torch.maximum(products, products.mT)


def squared_distances(products: Tensor, width: int, valid: Tensor) -> Tensor:
    """Between the tokens of a frame, over the width.

    Args:
        products: `[F, m, m]`, symmetric, finite: inner products.
        width: D.
        valid: `[F, m]` bool: which are tokens of the frame.

    Returns:
        `[F, m, m]`, symmetric, 0 to itself and outside of the frame.
    """
    squares = products.diagonal(dim1=1, dim2=2)
    distances = (squares.unsqueeze(1) + squares.unsqueeze(2)).sub_(products, alpha=2).div_(width).clamp_min_(0)
    distances.diagonal(dim1=1, dim2=2).zero_()
    # Many times faster than filling by a mask.
    inside = valid.to(distances.dtype)
    return distances.mul_(inside.unsqueeze(1)).mul_(inside.unsqueeze(2))


def neighbour_spread(distances: Tensor, num_neighbours: Tensor, most: int) -> Tensor:
    """The mean of the smallest squared distances, to itself included.

    Args:
        distances: `[F, m, m]`, squared.
        num_neighbours: `[F]` int64, from 0 to 7 and to m.
        most: The largest of these.

    Returns:
        `[F, m]`.
    """
    nearest = distances.topk(most, largest=False).values
    counted = torch.arange(most, device=nearest.device) < num_neighbours.view(-1, 1, 1)
    return nearest.where(counted, 0.0).sum(dim=-1) / num_neighbours.unsqueeze(-1)


def distances_and_scores(
    tokens: Tensor, layout: Layout, num_neighbours: Tensor, most_neighbours: int, *, reference_compatible: bool
) -> tuple[Tensor, Tensor]:
    """How far tokens are from each other, and how good a centre each makes: dense, and far from anything denser.

    Args:
        tokens: `[P, D]`, see `dpc_knn`.
        layout: Its rows.
        num_neighbours: `[F]` int64, from 1: those whose distances make a token's density, itself included.
        most_neighbours: The largest of these.
        reference_compatible: See `dpc_knn`.

    Returns:
        `[F, m, m]`, infinite from a token to what is no token of its frame; and `[F, m]`, minus infinity for that.
        Both in float64 if any frame has tokens too close together for float32.
    """
    width, most = tokens.shape[-1], int(layout.sizes[0])
    places = torch.arange(most, device=tokens.device)
    valid = places < torch.from_numpy(layout.sizes).to(tokens.device).unsqueeze(-1)
    distances = squared_distances(inner_products(tokens, layout), width, valid)
    largest = distances.amax(dim=(1, 2))
    beyond = torch.zeros_like(valid, dtype=distances.dtype).masked_fill_(~valid, torch.inf)
    distances += beyond.unsqueeze(1)
    spread = neighbour_spread(distances, num_neighbours, most_neighbours)
    frames = places[:0]
    if not reference_compatible:
        closest = (spread + beyond).amin(dim=-1)
        unsure = (closest < largest * (ROUNDING * TIMES_ROUNDING)) & (num_neighbours > 1)
        frames = unsure.nonzero().flatten()
    if len(frames) > 0:
        products = tokens.new_empty(len(frames), most, most, dtype=torch.float64)
        first_rows = torch.from_numpy(layout.first_rows).to(tokens.device)[frames]
        rows = (first_rows.unsqueeze(-1) + places).clamp_max_(len(tokens) - 1)
        for part, out in zip(rows.tensor_split(FLOAT64_PARTS), products.tensor_split(FLOAT64_PARTS), strict=True):
            own = tokens[part].double()
            torch.bmm(own, own.mT, out=out)
        exact = squared_distances(products, width, valid[frames]).add_(beyond[frames].unsqueeze(1))
        distances, spread = distances.double(), spread.double()
        distances[frames] = exact
        spread[frames] = neighbour_spread(exact, num_neighbours[frames], most_neighbours)
    distances.sqrt_()
    density = torch.exp(-spread) if reference_compatible else -spread
    denser = density.unsqueeze(1) > density.unsqueeze(2)
    separation = distances.where(denser, torch.inf).amin(dim=-1)
    separation = separation.where(separation != torch.inf, largest.sqrt().unsqueeze(-1))
    scores = separation * density if reference_compatible else separation.log() + density
    return distances, scores.masked_fill_(~valid, -torch.inf)


def dpc_knn(tokens: Tensor, layout: Layout, cluster_counts: Counts, *, reference_compatible: bool) -> Clusters:
    """Cluster the tokens of each frame around those that are dense and far from anything denser.

    A token counts among its own neighbours. The reference blurs densities with random noise; here there is none, and
    ties go to the first token. Only where all frames have as many tokens and clusters as each other, the reference's
    ties without noise (those of `torch.topk`) can be had for all frames at once, and are.

    Args:
        tokens: `[P, D]`, floating, **changed**: moved so that each frame's first token is 0, which distances do
                not see and rounding does. Rows that only pad may hold anything finite.
        layout: Its rows.
        cluster_counts: `[F]`, from 1 to the frame's tokens.
        reference_compatible: As in the reference, densities underflow to 0 where tokens are far apart. Otherwise the
            same scores are compared as logarithms.
    """
    device, most, most_clusters = tokens.device, int(layout.sizes[0]), int(cluster_counts.max())
    num_clusters = torch.from_numpy(cluster_counts).to(device).unsqueeze(-1)
    distances, scores = distances_and_scores(
        tokens,
        layout,
        num_clusters.clamp_max(MAX_NEIGHBOURS).squeeze(-1),
        min(MAX_NEIGHBOURS, most_clusters),
        reference_compatible=reference_compatible,
    )
    alike = bool((layout.sizes == most).all() and (cluster_counts == most_clusters).all())
    # Minus infinity is also a score of its own, but what is no token comes after those that are.
    centers = first_ranked(scores, most_clusters, largest=True, reference_compatible=reference_compatible and alike)
    places = torch.arange(most, device=device)
    wanted = places[:most_clusters] < num_clusters
    to_center = distances.gather(2, centers.unsqueeze(1).expand(-1, most, -1))
    nearest = to_center.masked_fill_(~wanted.unsqueeze(1), torch.inf).argmin(dim=-1)
    # Of two centres at the same place, argmin would give both to the first and leave the other empty.
    ranks = torch.full_like(nearest, most).scatter_(1, centers, places[:most_clusters].expand_as(centers))
    ids = ranks.where(ranks < num_clusters, nearest)
    first_clusters = torch.from_numpy(np.cumsum(cluster_counts) - cluster_counts).to(device).unsqueeze(-1)
    has_row = places < torch.from_numpy(layout.padded).to(device).unsqueeze(-1)
    first_rows = torch.from_numpy(layout.first_rows).to(device).unsqueeze(-1)
    return Clusters((ids + first_clusters)[has_row], (centers + first_rows)[wanted])
