"""M-RoPE positions of a prompt with one video: three rows, for time, height and width (spec 8)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Timestamps are off by parts of a millisecond; in positions.
_TICKS = 1e-3


def seconds_per_step(frame_timestamps: NDArray[np.float64], temporal_patch_size: int) -> float:
    """Seconds between temporal steps, from the mean distance of the sampled frames; 1 for a single frame."""
    if len(frame_timestamps) < 2:
        return 1.0
    span = float(frame_timestamps[-1] - frame_timestamps[0])
    return span / (len(frame_timestamps) - 1) * temporal_patch_size


def prompt_positions(
    num_before: int,
    grid_thw: tuple[int, int, int],
    num_after: int,
    *,
    merge_size: int,
    positions_per_step: float,
) -> Tensor:
    """Positions of text, every token of a video, and text.

    Text after the video goes on behind the video's largest position in any row, as the model was trained and as
    transformers 4 did it. Transformers 5.23 goes on behind the largest of height and width alone, which differs for
    videos that last longer than they are wide, so to speak.

    Args:
        num_before: Text tokens before the video.
        grid_thw: Steps, rows and columns of patches.
        num_after: Text tokens after it.
        merge_size: Patches along a token's side.
        positions_per_step: Seconds per step times the model's `tokens_per_second`.

    Returns:
        `[3, num_before + T * N + num_after]` int64.
    """
    steps, rows, columns = grid_thw[0], grid_thw[1] // merge_size, grid_thw[2] // merge_size
    # Truncated, and not rounded before: 1.9999 positions, which container ticks can give for 2, must not count as 1.
    times = (torch.arange(steps, dtype=torch.float64) * positions_per_step + _TICKS).long()
    grid = torch.meshgrid(times, torch.arange(rows), torch.arange(columns), indexing="ij")
    video = torch.stack([axis.flatten() for axis in grid]) + num_before
    before = torch.arange(num_before).expand(3, -1)
    after = torch.arange(num_after).expand(3, -1) + int(video.max()) + 1
    return torch.cat([before, video, after], dim=1)
