"""Hold what the packets of a file tell about its pictures."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Limits of a block of frames, which is passed on as one piece: many small frames, or a single large one (8K: 100 MB).
# Here, since estimates need them without the readers.
MAX_FRAMES_OF_BLOCK = 16
MAX_BYTES_OF_BLOCK = 128 << 20


@dataclass(frozen=True)
class VideoHeader:
    """The properties of a video file.

    Attributes:
        duration_s: When the last picture ends, in seconds.
        fps: Average frames per second; None if unknown.
        num_frames: Number of pictures.
        width: Width of the stored pictures in pixels, before rotation.
        height: Height of the stored pictures in pixels, before rotation.
        container: Name of the demuxer, for example ``mov,mp4,m4a,3gp,3g2,mj2``.
        codec: Name of the codec, for example ``h264``.
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
        header: Properties of the file; `duration_s` and `num_frames` cover only the packets that were read.
        ticks: int64 `[num_frames]` presentation times in the stream's time base, ascending.
        times: float64 `[num_frames]` the same times in seconds from the start of the video.
        keyframes: int64 `[num_keyframes]` presentation ticks of the pictures where decoding can start, ascending.
        entries: int64 `[num_keyframes]` the tick to seek to for each keyframe.
        traits: Properties, in words, that make the file more than a plain sequence of pictures; empty for most files.
    """

    header: VideoHeader
    ticks: NDArray[np.int64]
    times: NDArray[np.float64]
    keyframes: NDArray[np.int64]
    entries: NDArray[np.int64]
    traits: tuple[str, ...]
