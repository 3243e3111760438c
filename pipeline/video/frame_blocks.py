"""Yield the sampled frames of a clip, a few at a time, from the reader that is exact for the file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from pipeline.config import SamplingConfig
from pipeline.errors import SourceUnreachableError, VideoNotFoundError
from pipeline.store.filesystem import resolve
from pipeline.video.containers import opened
from pipeline.video.demux import read_index
from pipeline.video.frame_sampling import sample_frames
from pipeline.video.packet_index import MAX_BYTES_OF_BLOCK, MAX_FRAMES_OF_BLOCK
from pipeline.video.reader_choice import choose_reader


@dataclass(frozen=True)
class FrameBlock:
    """A few consecutive sampled frames of a clip, in the size of the file. They are valid until the next block is read.

    Attributes:
        num_frames: Number of sampled frames of the whole clip.
        frame_timestamps: float64 `[f]` presentation times in seconds.
        frames: uint8 `[f, H, W, 3]`, RGB.
    """

    num_frames: int
    frame_timestamps: NDArray[np.float64]
    frames: NDArray[np.uint8]


@dataclass(frozen=True)
class RemoteVideo:
    """A file on an object store that the decoding process reads by ranges.

    Attributes:
        url: Any fsspec URL.
        storage_options: Options for fsspec; credentials come from the environment.
    """

    url: str
    storage_options: Mapping[str, Any]


class _Watched:
    """An open remote file that keeps the error of a failed read, which FFmpeg would report as damage to the video."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.error: Exception | None = None

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, for the demuxer, and keep an error in `error`."""
        try:
            return self._file.read(size)
        except Exception as error:
            self.error = error
            raise


@contextmanager
def _readable(video: str | RemoteVideo) -> Iterator[str | IO[bytes]]:
    """Yield a path or an open file that the demuxer can open.

    Raises:
        VideoNotFoundError: there is no such remote file.
        SourceUnreachableError: the store of a remote file did not answer a read inside the `with` block.
    """
    if isinstance(video, str):
        yield video
        return
    fs, inner = resolve(video.url, video.storage_options)
    try:
        file = fs.open(inner, "rb")
    except FileNotFoundError:
        raise VideoNotFoundError(f"no video file at {video.url}") from None
    with file:
        watched = _Watched(file)
        try:
            yield cast("IO[bytes]", watched)
        except Exception as error:
            if watched.error is None:
                raise
            reason = f"{type(watched.error).__name__}: {watched.error}"
            raise SourceUnreachableError(f"{video.url} can't be read ({reason})") from error


def frame_blocks(
    path: str | RemoteVideo, sampling: SamplingConfig, start_s: float | None, end_s: float | None
) -> Iterator[FrameBlock]:
    """Decode the sampled frames of a clip, a few at a time.

    Args:
        path: A local file, or a remote file that is read by ranges, which decord can't do.
        sampling: The frames to choose, and the decoder.
        start_s: Start of the clip in seconds, None for the beginning.
        end_s: End of the clip in seconds, None for the end.

    Raises:
        UnreadableVideoError: the file can't be decoded, has no frame in the span, or is not exact with the decoder that
            the job names.
        VideoNotFoundError: there is no such remote file.
        SourceUnreachableError: the store of a remote file did not answer.
    """
    with _readable(path) as file, opened(file) as container:
        # decord reads all packets of a file before it returns a frame, so a span is read with PyAV, from its own start.
        whole = sampling.decoder == "decord" or (start_s is None and end_s is None)
        index = read_index(container) if whole else read_index(container, start_s, end_s)
        indices = sample_frames(index.times, sampling, start_s, end_s, video_end_s=index.header.duration_s)
        local = path if whole and isinstance(path, str) else None
        reader = choose_reader(local, sampling, container, index)
        bytes_of_frame = max(1, 3 * index.header.width * index.header.height)
        at_once = max(1, min(MAX_FRAMES_OF_BLOCK, MAX_BYTES_OF_BLOCK // bytes_of_frame))
        for first in range(0, len(indices), at_once):
            chosen = indices[first : first + at_once]
            yield FrameBlock(len(indices), index.times[chosen], reader.read(chosen))
