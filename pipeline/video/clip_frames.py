"""The frames of a clip, put together from blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import DecodedClip
from pipeline.config import SamplingConfig
from pipeline.video.frame_blocks import FrameBlock, RemoteVideo, frame_blocks

FrameTransform = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def collect(
    blocks: Iterable[FrameBlock], transform_for: Callable[[int], FrameTransform] = lambda _: lambda frames: frames
) -> DecodedClip:
    """Put a clip together from its blocks.

    Args:
        blocks: At least one.
        transform_for: Given the number of sampled frames: what to make of frames `[f, H, W, 3]` (a resize), applied to
            a few at a time: frames of the file's own size are never all in memory.
    """
    frames, timestamps = [], []
    transform: FrameTransform | None = None
    for block in blocks:
        transform = transform or transform_for(block.num_frames)
        made = transform(block.frames)
        frames.append(made.copy() if np.may_share_memory(made, block.frames) else made)
        timestamps.append(block.frame_timestamps)
    return DecodedClip(frames=np.concatenate(frames), frame_timestamps=np.concatenate(timestamps))


def decode_clip(
    path: str | RemoteVideo,
    sampling: SamplingConfig,
    start_s: float | None,
    end_s: float | None,
    *,
    transform_for: Callable[[int], FrameTransform] = lambda _: lambda frames: frames,
) -> DecodedClip:
    """Decode the sampled frames of a clip in this process: `frame_blocks`, put together by `collect`."""
    return collect(frame_blocks(path, sampling, start_s, end_s), transform_for)
