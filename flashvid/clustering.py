"""DPC-kNN: merge the candidates of one frame into a number of clusters (paper: spatial part of TSTM; spec 4)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flashvid.merging import add_rows
from flashvid.segmentation import first_ranked

MAX_NEIGHBOURS = 7


@dataclass(frozen=True, eq=False)
class Clusters:
    """A partition of n tokens into c clusters."""

    ids: Tensor
    """`[n]` int64: the cluster of each token, 0 to c - 1."""
    centers: Tensor
    """`[c]` int64: the token each cluster is centred on, best first."""


def dpc_knn(tokens: Tensor, num_clusters: int, *, reference_compatible: bool) -> Clusters:
    """Cluster tokens around those that are dense and far from anything denser.

    A token counts among its own neighbours. The reference blurs densities with random noise; here there is none.

    Args:
        tokens: `[n, D]`, floating; distances are float32 whatever the dtype.
        num_clusters: c, from 1 to n.
        reference_compatible: As in the reference, distances come from a matrix product from 26 tokens on, where
            a token is not quite at distance 0 from itself, and densities underflow to 0 where tokens are far
            apart. Otherwise distances are direct, and the same scores are compared as logarithms.
    """
    points = tokens.float()
    mode = "use_mm_for_euclid_dist_if_necessary" if reference_compatible else "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(points, points, compute_mode=mode) / math.sqrt(points.shape[-1])
    num_neighbours = min(num_clusters, MAX_NEIGHBOURS)
    spread = distances.topk(num_neighbours, largest=False).values.square().mean(dim=-1)
    density = torch.exp(-spread) if reference_compatible else -spread

    denser = density.unsqueeze(0) > density.unsqueeze(1)
    to_denser = distances.masked_fill(~denser, torch.inf).amin(dim=-1)
    separation = torch.where(denser.any(dim=-1), to_denser, distances.max())
    scores = separation * density if reference_compatible else separation.log() + density

    centers = first_ranked(scores, num_clusters, largest=True, reference_compatible=reference_compatible)
    ids = distances[:, centers].argmin(dim=-1)
    # Of two centres at the same place, argmin would give both to the first and leave the other empty.
    ids[centers] = torch.arange(num_clusters, device=ids.device)
    return Clusters(ids, centers)


def cluster_means(tokens: Tensor, clusters: Clusters) -> Tensor:
    """The plain mean of each cluster: `[n, D]` to `[c, D]`, same dtype."""
    sums = tokens.new_zeros(len(clusters.centers), tokens.shape[-1])
    add_rows(sums, clusters.ids, tokens)
    counts = clusters.ids.bincount(minlength=len(clusters.centers))
    return sums / counts.to(tokens.dtype).unsqueeze(-1)
