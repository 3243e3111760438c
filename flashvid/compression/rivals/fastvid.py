"""FastVID: salient tokens by attention, and dense ones of anchor frames that gather the rest (arXiv 2503.11187).

Written from the paper's method section: DySeg, then STPrune with its parts ATS and DTM, with the paper's settings.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flashvid.compression.dyseg import cut_segments, transition_similarities
from flashvid.compression.method import first_of_each_frame
from flashvid.compression.ranking import apportion, first_ranked
from flashvid.compression.result import ClipFeatures, CompressionResult, Rows, assemble, widened
from flashvid.config import CompressionConfig

_LEAST_SEGMENTS, _THRESHOLD = 8, 0.9
# Share of the tokens that DTM produces, distance of its anchor frames, and an anchor's weight in a merged token.
_MERGED_SHARE, _ANCHOR_STRIDE, _ANCHOR_WEIGHT = 0.4, 4, 0.6
_NEIGHBOURS = 4


def compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    num_tokens = clip.scores.shape[1]
    # Cut at the seven least similar transitions, and at every one below the threshold (paper: DySeg).
    lengths = cut_segments(
        transition_similarities(clip.features.float().mean(dim=1), reference_compatible=False),
        threshold=_THRESHOLD,
        min_segment_num=_LEAST_SEGMENTS,
        complementary=True,
        reference_compatible=False,
    )
    total = np.array([config.clip_budget(*clip.scores.shape)])
    # In proportion to the tokens of each segment, which its budget cannot exceed.
    budgets = apportion(total, np.array(lengths) * num_tokens, np.zeros(len(lengths), dtype=np.int64))
    rows, first = [], 0
    for length, budget in zip(lengths, budgets.tolist(), strict=True):
        frames = slice(first, first + length)
        if budget > 0:
            rows += _prune(clip.features[frames], clip.scores[frames].float(), budget, first * num_tokens)
        first += length
    return assemble(widened(clip.features), rows, lengths, clip.features.dtype)


def _prune(features: Tensor, scores: Tensor, budget: int, offset: int) -> list[Rows]:
    """Reduce one segment, `[L, N, D]` and `[L, N]`, to `budget` tokens (paper: STPrune)."""
    num_tokens, width = features.shape[1:]
    flat = features.reshape(-1, width)
    num_merged = min(round(budget * _MERGED_SHARE), budget - 1)
    ranked = scores.sort(dim=-1, descending=True, stable=True).indices
    salient = first_of_each_frame(ranked, budget - num_merged)
    rest = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
    rest[salient] = False
    rows = [Rows.kept(salient + offset)]
    if num_merged == 0:
        return rows
    in_anchor_frames = (torch.arange(len(flat), device=flat.device) // num_tokens) % _ANCHOR_STRIDE == 0
    candidates = (rest & in_anchor_frames).nonzero().flatten()
    if len(candidates) < num_merged:
        candidates = rest.nonzero().flatten()
    anchors = candidates[_densest(flat[candidates].float(), num_merged)].sort().values
    others = rest.clone()
    others[anchors] = False
    members = others.nonzero().flatten()
    units = functional.normalize(flat.float(), dim=-1)
    nearest = (units[members] @ units[anchors].T).argmax(dim=-1)
    own = torch.arange(len(anchors), device=flat.device)
    counts = nearest.bincount(minlength=len(anchors))
    anchor_weights = torch.where(counts > 0, _ANCHOR_WEIGHT, 1.0)
    gathered, slots = torch.cat([anchors, members]), torch.cat([own, nearest])
    weights = torch.cat([anchor_weights, (1 - _ANCHOR_WEIGHT) / counts[nearest]])
    rows.append(Rows(anchors + offset, gathered + offset, slots, weights))
    return rows


def _densest(points: Tensor, count: int) -> Tensor:
    """Return the positions of the `count` points that are dense and far from denser ones (paper: DTM, by DPC-kNN)."""
    distances = _distances(points)
    nearest = distances.topk(min(_NEIGHBOURS + 1, len(points)), largest=False).values[:, 1:]
    density = -nearest.square().mean(dim=-1) if nearest.shape[1] else distances.new_zeros(len(points))
    denser = density[None] > density[:, None]
    apart = torch.where(denser.any(dim=-1), distances.masked_fill(~denser, torch.inf).amin(dim=-1), distances.max())
    # The logarithm of the paper's product, since densities of points far apart would all underflow to 0.
    return first_ranked(apart.log() + density, count, largest=True, reference_compatible=False)


def _distances(points: Tensor) -> Tensor:
    """Return all distances between points: `[n, D]` to `[n, n]` float64, symmetric, with equal rows for equal points.

    `cdist` computes more than 25 points from inner products, whose rounding in float32 hides small distances.
    Differences are exact, but take about ten times as long on a CPU.
    """
    distinct, places = torch.unique(points.double(), dim=0, return_inverse=True)
    centred = distinct - distinct.mean(dim=0)
    distances = torch.cdist(centred, centred).fill_diagonal_(0.0)
    return torch.maximum(distances, distances.mT)[places][:, places]
