"""What the packets of a file say about its pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class VideoHeader:
    """What is known of a file.

    Attributes:
        duration_s: When the last picture ends, in seconds.
        fps: Average frames per second, None where unknown.
        num_frames: Pictures in the file.
        width: Pixels, as they are stored.
        height: Pixels, as they are stored.
        container: Demuxer's name, for instance ``mov,mp4,m4a,3gp,3g2,mj2``.
        codec: For instance ``h264``.
    """

    duration_s: float
    fps: float | None
    num_frames: int
    width: int
    height: int
    container: str
    codec: str


@dataclass(frozen=True)
class PacketIndex:
    """The pictures of a file, or of a span of it, in presentation order.

    Attributes:
        header: Of the file; `duration_s` and `num_frames` reach as far as packets were read.
        ticks: int64 `[num_frames]` presentation times in the stream's own unit, ascending.
        times: float64 `[num_frames]` the same in seconds from the beginning of the video.
        keyframes: int64 `[num_keyframes]` presentation ticks of the pictures where decoding can begin, ascending.
        entries: int64 `[num_keyframes]` what to ask the demuxer for to get there.
        traits: What makes the file more than a plain sequence of pictures, in words; empty for most.
    """

    header: VideoHeader
    ticks: NDArray[np.int64]
    times: NDArray[np.float64]
    keyframes: NDArray[np.int64]
    entries: NDArray[np.int64]
    traits: tuple[str, ...]
