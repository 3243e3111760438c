"""DPC-kNN: merge the candidates of each frame into a number of clusters (paper: spatial part of TSTM; spec 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashvid.ranking import Counts, first_ranked

MAX_NEIGHBOURS = 7
# Squared distances come from inner products, wrong by about this share of the largest squared length. Frames where
# neighbours are not this many times farther apart are done again in float64 (which the reference does not), in so
# many parts that memory is bounded.
ROUNDING = 8 * torch.finfo(torch.float32).eps
TIMES_ROUNDING = 100
PARTS = 8


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of the tokens of each of F frames; a frame has at most m tokens and at most c clusters."""

    ids: Tensor
    """`[F, m]` int64: the cluster of each token, from 0; meaningless beyond a frame's tokens."""
    centers: Tensor
    """`[F, c]` int64: the token each cluster is centred on, best first; meaningless beyond a frame's clusters."""


def squared_distances(products: Tensor, width: int, outside: Tensor) -> Tensor:
    """Between the tokens of a frame, over the width.

    Args:
        products: `[F, m, m]`, symmetric: inner products.
        width: D.
        outside: `[F, m, m]` bool: pairs of which not both are tokens of the frame.

    Returns:
        `[F, m, m]`, symmetric, 0 to itself, infinite outside.
    """
    squares = products.diagonal(dim1=1, dim2=2)
    distances = (squares.unsqueeze(1) + squares.unsqueeze(2)).sub_(products, alpha=2).div_(width)
    distances.diagonal(dim1=1, dim2=2).zero_()
    return distances.clamp_min_(0).masked_fill_(outside, torch.inf)


def neighbour_spread(distances: Tensor, num_neighbours: Tensor) -> Tensor:
    """The mean of the smallest squared distances, to itself included.

    Args:
        distances: `[F, m, m]`, squared.
        num_neighbours: `[F]` int64, from 0 to 7 and to m.

    Returns:
        `[F, m]`.
    """
    nearest = distances.topk(min(MAX_NEIGHBOURS, distances.shape[-1]), largest=False).values
    counted = torch.arange(nearest.shape[-1], device=nearest.device) < num_neighbours.view(-1, 1, 1)
    return nearest.where(counted, 0.0).sum(dim=-1) / num_neighbours.clamp_min(1).unsqueeze(-1)


def dpc_knn(tokens: Tensor, token_counts: Counts, cluster_counts: Counts, *, reference_compatible: bool) -> Clusters:
    """Cluster the tokens of each frame around those that are dense and far from anything denser.

    A token counts among its own neighbours. The reference blurs densities with random noise; here there is none, and
    ties go to the first token. Only where all frames have as many tokens and clusters as each other, the reference's
    ties without noise (those of `torch.topk`) can be had for all frames at once, and are.

    Args:
        tokens: `[F, m, D]`, floating, **changed**: moved so that each frame's first token is 0, which distances do
                not see and rounding does. Rows beyond a frame's tokens may hold anything finite.
        token_counts: `[F]`: the tokens of each frame, its first rows; at most m.
        cluster_counts: `[F]`, from 0 to the frame's tokens.
        reference_compatible: As in the reference, densities underflow to 0 where tokens are far apart. Otherwise the
            same scores are compared as logarithms.
    """
    _, most, width = tokens.shape
    num_tokens = torch.from_numpy(token_counts).to(tokens.device)
    num_clusters = torch.from_numpy(cluster_counts).to(tokens.device)
    places = torch.arange(most, device=tokens.device)
    valid = places < num_tokens.unsqueeze(-1)
    outside = ~(valid.unsqueeze(1) & valid.unsqueeze(2))
    num_neighbours = num_clusters.clamp_max(MAX_NEIGHBOURS)
    tokens -= tokens[:, :1].clone()
    products = torch.bmm(tokens, tokens.transpose(1, 2))
    # Symmetric to the last bit, since rounding would decide between mutual neighbours.
    products = torch.add(products, products.transpose(1, 2)).mul_(0.5)
    distances = squared_distances(products, width, outside)
    del products
    spread = neighbour_spread(distances, num_neighbours)
    largest = distances.masked_fill(outside, 0.0).amax(dim=(1, 2))
    frames = places[:0]
    if not reference_compatible:
        closest = spread.masked_fill(~valid, torch.inf).amin(dim=-1)
        unsure = (closest < largest * (ROUNDING * TIMES_ROUNDING)) & (num_neighbours > 1)
        frames = unsure.nonzero().flatten()
    if len(frames) > 0:
        exact = tokens.new_empty(len(frames), most, most, dtype=torch.float64)
        for part in torch.arange(len(frames), device=tokens.device).tensor_split(PARTS):
            own = tokens[frames[part]].double()
            exact[part] = torch.bmm(own, own.transpose(1, 2))
        exact = squared_distances(exact, width, outside[frames])
        distances, spread = distances.double(), spread.double()
        distances[frames], spread[frames] = exact, neighbour_spread(exact, num_neighbours[frames])

    distances.sqrt_()
    density = torch.exp(-spread) if reference_compatible else -spread
    not_denser = density.unsqueeze(1) <= density.unsqueeze(2)
    separation = distances.masked_fill(not_denser | outside, torch.inf).amin(dim=-1)
    separation = separation.where(separation != torch.inf, largest.sqrt().unsqueeze(-1))
    scores = separation * density if reference_compatible else separation.log() + density
    most_clusters = int(cluster_counts.max())
    alike = reference_compatible and bool((token_counts == most).all() and (cluster_counts == most_clusters).all())
    # Infinity is also a score of its own, but tokens beyond the end come after those within.
    ranked = scores.masked_fill_(~valid, -torch.inf)
    centers = first_ranked(ranked, most_clusters, largest=True, reference_compatible=alike)
    missing = places[:most_clusters] >= num_clusters.unsqueeze(-1)
    ranks = torch.full_like(valid, most, dtype=torch.int64).scatter_(
        1, centers, places[:most_clusters].expand_as(centers)
    )
    to_center = distances.gather(2, centers.unsqueeze(1).expand(-1, most, -1))
    nearest = to_center.masked_fill_(missing.unsqueeze(1), torch.inf).argmin(dim=-1)
    # Of two centres at the same place, argmin would give both to the first and leave the other empty.
    return Clusters(ranks.where(ranks < num_clusters.unsqueeze(-1), nearest), centers)
