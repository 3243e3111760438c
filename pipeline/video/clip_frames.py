"""Join the frames of a clip from blocks."""

from collections.abc import Callable, Iterable
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.clip import DecodedClip
from pipeline.config import SamplingConfig
from pipeline.video.frame_blocks import FrameBlock, frame_blocks

FrameTransform = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def collect(
    blocks: Iterable[FrameBlock], transform_for: Callable[[int], FrameTransform] = lambda _: lambda frames: frames
) -> DecodedClip:
    """Join the blocks of a clip.

    Args:
        blocks: At least one block.
        transform_for: Returns, for the number of sampled frames of the clip, the transform of frames `[f, H, W, 3]`
            (a resize). It is applied to each block, so that full-size frames are never all in memory.

    Returns:
        The clip: uint8 frames `[F, H, W, 3]` after the transform, and float64 timestamps `[F]` in seconds.
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
    video: str | IO[bytes],
    sampling: SamplingConfig,
    start_s: float | None,
    end_s: float | None,
    *,
    transform_for: Callable[[int], FrameTransform] = lambda _: lambda frames: frames,
) -> DecodedClip:
    """Decode the sampled frames of a clip in this process.

    Args:
        video: See `frame_blocks`.
        sampling: See `frame_blocks`.
        start_s: Start of the clip in seconds, None for the beginning.
        end_s: End of the clip in seconds, None for the end.
        transform_for: See `collect`.

    Raises:
        UnreadableVideoError: see `frame_blocks`.
    """
    return collect(frame_blocks(video, sampling, start_s, end_s), transform_for)
