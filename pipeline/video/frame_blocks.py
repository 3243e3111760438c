"""Yield the sampled frames of a clip, a few at a time, from the reader that is exact for the file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.typing import NDArray

from pipeline.config import SamplingConfig
from pipeline.errors import UnreadableVideoError
from pipeline.video.containers import opened
from pipeline.video.demux import read_index
from pipeline.video.frame_sampling import sample_frames
from pipeline.video.packet_index import MAX_BYTES_OF_BLOCK, MAX_FRAMES_OF_BLOCK
from pipeline.video.pyav_reader import PyavReader
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


def frame_blocks(
    video: str | IO[bytes], sampling: SamplingConfig, start_s: float | None, end_s: float | None
) -> Iterator[FrameBlock]:
    """Decode the sampled frames of a clip, a few at a time.

    Args:
        video: Path of a local file, or an open file, which decord can't read.
        sampling: The frames to choose, and the decoder.
        start_s: Start of the clip in seconds, None for the beginning.
        end_s: End of the clip in seconds, None for the end.

    Raises:
        UnreadableVideoError: the file can't be decoded, has no frame in the span, or is not exact with the decoder that
            the job names.
    """
    with opened(video) as container:
        # decord reads all packets of a file before it returns a frame, so a span is read with PyAV, from its own start.
        whole = sampling.decoder == "decord" or (start_s is None and end_s is None)
        index = read_index(container) if whole else read_index(container, start_s, end_s)
        indices = sample_frames(index.times, sampling, start_s, end_s, video_end_s=index.header.duration_s)
        local = video if whole and isinstance(video, str) else None
        reader = choose_reader(local, sampling, container, index)
        bytes_of_frame = max(1, 3 * index.header.width * index.header.height)
        at_once = max(1, min(MAX_FRAMES_OF_BLOCK, MAX_BYTES_OF_BLOCK // bytes_of_frame))
        for first in range(0, len(indices), at_once):
            chosen = indices[first : first + at_once]
            try:
                frames = reader.read(chosen)
            except UnreadableVideoError:
                if sampling.decoder != "auto" or isinstance(reader, PyavReader):
                    raise
                # A reader that fails is not a file that fails: decord can't read some widths, for example.
                reader = PyavReader(container, index)
                frames = reader.read(chosen)
            yield FrameBlock(len(indices), index.times[chosen], frames)
