"""What a compression method is, and what the rivals share."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from flashvid.config import CompressionConfig
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


def clip_budget(clip: ClipFeatures, config: CompressionConfig) -> int:
    """Tokens to keep of a clip: `ceil(retention_ratio * expansion * T * N)`, all of them at most."""
    total = clip.scores.numel()
    return min(total, math.ceil(config.retention_ratio * config.expansion * total))


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
