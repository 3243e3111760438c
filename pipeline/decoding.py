"""Video files to frames, with decord; headers with PyAV.

decord reports a file that was cut short as a shorter video, and never says so. The header's own count is therefore held
against what the file really contains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import av
import decord
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from numpy.typing import NDArray

from pipeline.config import SamplingConfig
from pipeline.errors import UnreadableVideoError, VideoNotFoundError
from pipeline.sampling import sample_frames
from pipeline.storage import resolve

# Headers may promise a few frames more than there are (edit lists, a dropped last B-frame); a cut file lacks many.
_FRAMES_MISSING_ALLOWED = 5
_SHARE_MISSING_ALLOWED = 0.02
_FRAMES_AT_ONCE = 16

FrameTransform = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@dataclass(frozen=True)
class VideoHeader:
    """What a file's header says.

    Attributes:
        duration_s: Length in seconds, None where the container does not say.
        fps: Average frames per second, None where unknown.
        num_frames: Frames promised, 0 where the container does not say.
        width: Pixels.
        height: Pixels.
        container: Demuxer's name, for instance ``mov,mp4,m4a,3gp,3g2,mj2``.
        codec: For instance ``h264``.
    """

    duration_s: float | None
    fps: float | None
    num_frames: int
    width: int
    height: int
    container: str
    codec: str


@dataclass(frozen=True)
class DecodedClip:
    """Sampled frames of a clip.

    Attributes:
        frames: uint8 `[F, H, W, 3]`, RGB.
        frame_timestamps: `[F]` presentation times in seconds.
    """

    frames: NDArray[np.uint8]
    frame_timestamps: NDArray[np.float64]


@contextmanager
def local_copy(path: str, storage_options: Mapping[str, Any]) -> Iterator[str]:
    """A path that decoders can open: the file itself, or a copy that is gone afterwards.

    Raises:
        VideoNotFoundError: there is no such file.
    """
    fs, inner = resolve(path, storage_options)
    if isinstance(fs, LocalFileSystem):
        if not Path(inner).is_file():
            raise VideoNotFoundError(f"no video file at {path}")
        yield inner
        return
    with TemporaryDirectory(prefix="flashvid-") as folder:
        copy = str(Path(folder) / Path(inner).name)
        try:
            fs.get_file(inner, copy)
        except FileNotFoundError:
            raise VideoNotFoundError(f"no video file at {path}") from None
        yield copy


def read_header(file: str | IO[bytes]) -> VideoHeader:
    """Read the header of a local file or of an open one.

    Raises:
        UnreadableVideoError: not a video, or without a video stream; says which.
    """
    try:
        with av.open(file, "r") as container:
            if not container.streams.video:
                kinds = sorted({stream.type for stream in container.streams})
                raise UnreadableVideoError(f"no video stream, only {', '.join(kinds) or 'nothing'}")
            stream = container.streams.video[0]
            duration_s = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
            if duration_s is None and container.duration is not None:
                duration_s = container.duration / av.time_base
            return VideoHeader(
                duration_s=duration_s,
                fps=float(stream.average_rate) if stream.average_rate else None,
                num_frames=stream.frames,
                width=stream.width,
                height=stream.height,
                container=container.format.name,
                codec=stream.codec_context.name,
            )
    except av.error.FFmpegError as error:
        raise UnreadableVideoError(f"not a readable video file ({error.strerror})") from None


def check_exact(header: VideoHeader) -> None:
    """Refuse files whose frames decord would get wrong without saying so (docs/decoding.md).

    Raises:
        UnreadableVideoError: MPEG-TS or fragmented mp4; says how to convert the file.
    """
    fragmented = header.container.startswith("mov") and header.num_frames == 0
    if fragmented or header.container == "mpegts":
        kind = "a fragmented mp4" if fragmented else "an MPEG-TS file"
        raise UnreadableVideoError(
            f"decord would take wrong frames from {kind}; convert it first: ffmpeg -i IN -c copy OUT.mp4"
        )


def decode_clip(
    path: str,
    sampling: SamplingConfig,
    start_s: float | None,
    end_s: float | None,
    *,
    transform_for: Callable[[int], FrameTransform] = lambda _: lambda frames: frames,
) -> DecodedClip:
    """Decode the sampled frames of a clip from a local file.

    Args:
        path: The file.
        sampling: Which frames.
        start_s: Start of the clip in seconds, None for the beginning.
        end_s: End of the clip in seconds, None for the end.
        transform_for: Given the number of sampled frames: what to make of frames `[f, H, W, 3]` (a resize), applied to
            a few at a time: frames of the file's own size are never all in memory.

    Raises:
        UnreadableVideoError: the file can't be decoded to its end, or has no frame in the span.
    """
    header = read_header(path)
    check_exact(header)
    try:
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        present = len(reader)
        missing = header.num_frames - present
        if missing > max(_FRAMES_MISSING_ALLOWED, _SHARE_MISSING_ALLOWED * header.num_frames):
            raise UnreadableVideoError(
                f"the file is cut short: its header promises {header.num_frames} frames, it holds {present}"
            )
        if present == 0:
            raise UnreadableVideoError("the video stream has no frames")
        times = np.asarray(reader.get_frame_timestamp(np.arange(present)), dtype=np.float64)[:, 0]
        indices = sample_frames(times, sampling, start_s, end_s)
        transform = transform_for(len(indices))
        blocks = [
            transform(reader.get_batch(indices[first : first + _FRAMES_AT_ONCE]).asnumpy())
            for first in range(0, len(indices), _FRAMES_AT_ONCE)
        ]
    except (decord.DECORDError, RuntimeError) as error:
        # decord reports every trouble of its decoder as one of these two.
        raise UnreadableVideoError(
            f"the file can't be decoded, it may be cut short or damaged (decord: {_cause(error)})"
        ) from error
    return DecodedClip(frames=np.concatenate(blocks), frame_timestamps=times[indices])


def _cause(error: BaseException) -> str:
    """What decord says, without the time and the source line it puts before it."""
    lines = str(error).strip().splitlines() or ["no message"]
    return re.sub(r"^(\[[\d:]+\] \S+:\d+: )+", "", lines[0])
