"""What a compression method is, and what the rivals share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flashvid.config import CompressionConfig
from flashvid.merging import sum_bags
from flashvid.result import ClipFeatures, CompressionResult, Rows, assemble


@dataclass(frozen=True)
class CompressionMethod:
    """An entry of the registry. Every method here sees the video alone: what it keeps serves any question.

    Attributes:
        compress: The method. It may rely on checked features, must not change them, and is called without gradients.
        source: Where it is published, and which part of that it is.
    """

    compress: Callable[[ClipFeatures, CompressionConfig], CompressionResult]
    source: str


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
    tokens = clip.features.flatten(0, 1)[indices]
    slots = torch.arange(len(indices), device=indices.device)
    return assemble(clip.features, [Rows(tokens, indices, indices, slots)], (len(clip.features),))


def merge_into(clip: ClipFeatures, kept: Tensor, owner: Tensor) -> CompressionResult:
    """The result of merging every token into one that is kept: plain means.

    Args:
        clip: The tokens.
        kept: `[M]` int64, ascending indices.
        owner: `[T * N]` int64: for each token the index of the kept one it is merged into, -1 if it is dropped.
    """
    members = (owner >= 0).nonzero().flatten()
    slots = torch.searchsorted(kept, owner[members])
    # Halves are added up in float32.
    wide = clip.features.to(torch.promote_types(clip.features.dtype, torch.float32)).flatten(0, 1)
    weights = slots.bincount(minlength=len(kept)).reciprocal()[slots]
    means = sum_bags(wide, members, slots, len(kept), weights).to(clip.features.dtype)
    return assemble(clip.features, [Rows(means, kept, members, slots)], (len(clip.features),))


def shared_out(total: int, weights: Sequence[float], *, most: int, times: Sequence[int] | None = None) -> list[int]:
    """Share a number of tokens out in proportion to weights, in whole tokens that add up to it exactly.

    Args:
        total: Tokens; no more than all shares together may hold.
        weights: Of the shares; not negative.
        most: Tokens that a share may hold...
        times: ...times this, per share; 1 when omitted.
    """
    limits = [most * factor for factor in times or [1] * len(weights)]
    if total > sum(limits):
        raise ValueError(f"{total} tokens do not fit into {sum(limits)}")
    counts = [0] * len(weights)
    # One token at a time to the share that is furthest behind: the first of equal ones.
    for _ in range(total):
        open_shares = [index for index, limit in enumerate(limits) if counts[index] < limit]
        behind = max(open_shares, key=lambda index: weights[index] / (2 * counts[index] + 1))
        counts[behind] += 1
    return counts
