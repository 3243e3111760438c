"""Read frames by presentation time with PyAV: seek to an earlier keyframe, decode forward, take the exact frame."""

from collections.abc import Iterator
from typing import Any

import av
import av.filter
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from pipeline.errors import UnreadableVideoError
from pipeline.video.bitstream import display_matrix
from pipeline.video.containers import video_stream
from pipeline.video.demux import BEFORE_ANY_S
from pipeline.video.packet_index import PacketIndex

# Decoding this many unneeded pictures costs less than a seek.
_NOT_WORTH_A_SEEK = 8
# Where to start decoding a picture, in keyframes back from the last one before it. Later entries are used if the
# picture does not come out, as after a false keyframe (gradual refresh).
_KEYFRAMES_BACK = (0, 1, 4)


class PyavReader:
    """Reads frames of one open file; a frame is returned only if its presentation time matches exactly.

    Args:
        container: The file after `read_index`; the caller closes it.
        index: Index of at least the pictures to read.
    """

    def __init__(self, container: InputContainer, index: PacketIndex) -> None:
        self._container = container
        self._stream = video_stream(container)
        self._index = index
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._reached: int | None = None
        self._colours: tuple[object, av.filter.Graph] | None = None
        self._shape: tuple[int, ...] | None = None

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode frames.

        Args:
            indices: `[f]` indices into the packet index, ascending, and not before those of an earlier call.

        Returns:
            uint8 `[f, H, W, 3]`, RGB, rotated and mirrored according to the file.

        Raises:
            UnreadableVideoError: a frame can't be decoded, or has another size than the frames before it.
        """
        return np.stack([self._pixels(self._frame(int(index))) for index in indices])

    def _frame(self, index: int) -> av.VideoFrame:
        tick = int(self._index.ticks[index])
        error: av.error.FFmpegError | None = None
        for place in self._ways_to(index):
            try:
                if place is not None:
                    self._container.seek(place, stream=self._stream)
                    self._frames = self._container.decode(self._stream)
                if (frame := self._forward_to(tick)) is not None:
                    return frame
            except MemoryError:
                raise
            except av.error.FFmpegError as caught:
                error = caught
                self._reached = None
        reason = error.strerror if error else f"no picture at {self._index.times[index]:.3f} s"
        raise UnreadableVideoError(f"the file can't be decoded; it may be cut short or damaged ({reason})")

    def _ways_to(self, index: int) -> Iterator[int | None]:
        """Yield where to start decoding: None to continue from the last picture, then ticks to seek to, descending."""
        keyframes, entries, tick = self._index.keyframes, self._index.entries, self._index.ticks[index]
        nearest = max(int(np.searchsorted(keyframes, tick, side="right")) - 1, 0)
        if self._reached is not None and self._reached < tick:
            here, there = np.searchsorted(self._index.ticks, (self._reached, keyframes[nearest]))
            if there - here <= _NOT_WORTH_A_SEEK:
                yield None
        yield from (int(entries[nearest - back]) for back in _KEYFRAMES_BACK if nearest >= back)
        yield int(entries[0])
        yield int(entries[0] - BEFORE_ANY_S / (self._stream.time_base or 1))

    def _forward_to(self, tick: int) -> av.VideoFrame | None:
        """Decode up to the picture of a tick and return it; None if it does not come out, or is damaged."""
        for frame in self._frames:
            if frame.pts is None or frame.pts < tick:
                continue
            self._reached = frame.pts
            return frame if frame.pts == tick and not frame.is_corrupt else None
        self._reached = None
        return None

    def _pixels(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        image, matrix = self._to_rgb(frame), display_matrix(frame)
        if matrix is not None:
            image = turned(image, matrix)
        self._shape = self._shape or image.shape
        if image.shape != self._shape:
            raise UnreadableVideoError(
                f"the frame size changes within the file, from {self._shape[:2]} to {image.shape[:2]} (height, width)"
            )
        return image

    def _to_rgb(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Convert a frame to RGB exactly as the ffmpeg program does; PyAV's own conversion rounds differently."""
        layout = (frame.format.name, frame.width, frame.height, frame.colorspace, frame.color_range)
        if self._colours is None or self._colours[0] != layout:
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format, time_base=self._stream.time_base
            )
            graph.link_nodes(source, graph.add("scale"), graph.add("format", "rgb24"), graph.add("buffersink"))
            graph.configure()
            self._colours = (layout, graph)
        graph = self._colours[1]
        graph.push(frame)
        converted: Any = graph.pull()
        rgb: NDArray[np.uint8] = converted.to_ndarray()
        return rgb


def turned(image: NDArray[np.uint8], matrix: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Rotate and mirror an image `[H, W, 3]` according to a display matrix (ISO/IEC 14496-12, 6.2.2).

    Args:
        image: The image as stored.
        matrix: int32 `[9]` from `display_matrix`. The pixel stored at (x, y) is shown at (a x + c y, b x + d y). Only
            quarter turns and mirroring are applied; other angles are ignored.
    """
    a, b, c, d = np.sign(matrix[[0, 1, 3, 4]])
    if a and d and not b and not c:
        across, down = a, d
    elif b and c and not a and not d:
        image, across, down = image.swapaxes(0, 1), c, b
    else:
        return image
    return image[::down, ::across]
