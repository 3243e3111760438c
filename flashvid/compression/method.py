"""What compression methods share: budgets by frame, and results of keeping tokens or of plain means."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from flashvid.compression.result import ClipFeatures, CompressionResult, Rows, assemble, widened


def frame_budgets(budget: int, num_frames: int) -> list[int]:
    """A clip's budget, spread over its frames as evenly as whole tokens can be: `num_frames` counts."""
    borders = [budget * frame // num_frames for frame in range(num_frames + 1)]
    return [end - start for start, end in pairwise(borders)]


def first_of_each_frame(ranked: Tensor, budget: int) -> Tensor:
    """Indices in the clip of the best tokens of every frame.

    Args:
        ranked: `[T, N]` int64, positions in each frame, best first.
        budget: Tokens of the clip; see `frame_budgets`.

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
    """The result of keeping some tokens as they are, and nothing of the others; `indices` `[M]` int64, ascending."""
    return assemble(widened(clip.features), [Rows.kept(indices)], (len(clip.features),), clip.features.dtype)


def merge_into(clip: ClipFeatures, kept: Tensor, owner: Tensor) -> CompressionResult:
    """The result of merging every token into one that is kept: plain means.

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
