"""Helpers of compression methods: budgets by frame, and results that keep tokens or average them."""

from itertools import pairwise

import torch
from torch import Tensor

from flashvid.compression.result import ClipFeatures, CompressionResult, Rows, assemble, widened


def frame_budgets(budget: int, num_frames: int) -> list[int]:
    """Return a clip's budget, split over its frames as evenly as possible: `num_frames` counts."""
    borders = [budget * frame // num_frames for frame in range(num_frames + 1)]
    return [end - start for start, end in pairwise(borders)]


def first_of_each_frame(ranked: Tensor, budget: int) -> Tensor:
    """Return the indices in the clip of the best tokens of every frame.

    Args:
        ranked: `[T, N]` int64, positions in each frame, best first.
        budget: Tokens of the clip, split over frames by `frame_budgets`.

    Returns:
        `[budget]` int64, ascending.
    """
    num_frames, num_tokens = ranked.shape
    budgets = torch.tensor(frame_budgets(budget, num_frames), device=ranked.device)
    rank = torch.arange(num_tokens, device=ranked.device)
    firsts = torch.arange(num_frames, device=ranked.device) * num_tokens
    chosen: Tensor = (ranked + firsts[:, None])[rank < budgets[:, None]]
    return chosen.sort().values


def keep(clip: ClipFeatures, indices: Tensor) -> CompressionResult:
    """Return the result that keeps the tokens at `indices`, `[M]` int64, ascending, and drops the others."""
    return assemble(widened(clip.features), [Rows.kept(indices)], (len(clip.features),), clip.features.dtype)


def merge_into(clip: ClipFeatures, kept: Tensor, owner: Tensor) -> CompressionResult:
    """Return the result that merges tokens into kept ones by plain means.

    Args:
        clip: The tokens.
        kept: `[M]` int64, ascending indices.
        owner: `[T * N]` int64: for each token the index of the kept one it is merged into, -1 if it is dropped.
    """
    members = (owner >= 0).nonzero().flatten()
    slots = torch.searchsorted(kept, owner[members])
    weights = slots.bincount(minlength=len(kept)).reciprocal()[slots]
    rows = Rows(kept, members, slots, weights)
    return assemble(widened(clip.features), [rows], (len(clip.features),), clip.features.dtype)
