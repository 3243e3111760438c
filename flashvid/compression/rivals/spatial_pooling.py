"""Spatial pooling: means over blocks of every frame's grid, as a lower resolution would give."""

import math

import torch
from torch import Tensor

from flashvid.compression.method import merge_into
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig
from flashvid.errors import ConfigurationError

# Largest difference of the logarithms of the aspect ratios of the pooled grid and the token grid.
_LARGEST_DISTORTION = math.log(2) + 1e-9


def compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    if clip.grid_hw is None:
        raise ConfigurationError(f"spatial_pooling needs grid_hw: {clip.scores.shape[1]} tokens make no square")
    num_frames, num_tokens = clip.scores.shape
    # Rounded up, so that there are never fewer tokens than with other methods.
    rows, columns = pooled_grid(clip.grid_hw, math.ceil(config.clip_budget(*clip.scores.shape) / num_frames))
    block, middle = _blocks(clip.grid_hw, (rows, columns))
    firsts = torch.arange(num_frames)[:, None] * num_tokens
    kept, owner = (firsts + middle).flatten(), (firsts + middle[block]).flatten()
    return merge_into(clip, kept.sort().values.to(clip.features.device), owner.to(clip.features.device))


def pooled_grid(grid_hw: tuple[int, int], wanted: int) -> tuple[int, int]:
    """Return the smallest grid of at least `wanted` blocks with about the aspect ratio of `grid_hw`."""
    height, width = grid_hw

    def distortion(grid: tuple[int, int]) -> float:
        return abs(math.log((grid[0] / grid[1]) / (height / width)))

    grids = [(rows, columns) for rows in range(1, height + 1) for columns in range(1, width + 1)]
    fitting = [grid for grid in grids if math.prod(grid) >= wanted and distortion(grid) <= _LARGEST_DISTORTION]
    return min(fitting, key=lambda grid: (math.prod(grid), distortion(grid)))


def _blocks(grid_hw: tuple[int, int], pooled: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the block of every token `[N]`, and the middle token of every block `[rows * columns]`, both int64."""
    rows, columns = (torch.arange(size) * parts // size for size, parts in zip(grid_hw, pooled, strict=True))
    middle_row, middle_column = (
        torch.tensor([int(part.eq(index).nonzero().float().mean()) for index in range(parts)])
        for part, parts in zip((rows, columns), pooled, strict=True)
    )
    block = (rows[:, None] * pooled[1] + columns).flatten()
    return block, (middle_row[:, None] * grid_hw[1] + middle_column).flatten()
