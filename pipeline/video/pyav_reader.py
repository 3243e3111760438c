"""Frames by presentation time, with PyAV: seek to a keyframe before, decode forward, take the picture at that time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av
import av.filter
import numpy as np
from av.container import InputContainer
from numpy.typing import NDArray

from pipeline.errors import UnreadableVideoError
from pipeline.video.bitstream import display_matrix
from pipeline.video.demux import BEFORE_ANY_S, video_stream
from pipeline.video.packet_index import PacketIndex

# Decoding so many pictures that nobody asked for costs less than a seek.
_NOT_WORTH_A_SEEK = 8
# From which keyframe a picture is decoded that did not come out: the last before it, then ones further back (after a
# keyframe that is none, as in streams with gradual refresh).
_KEYFRAMES_BACK = (0, 1, 4)


class PyavReader:
    """Reads frames of one open file; a picture is taken by its exact presentation time or not at all.

    Args:
        container: The file, as `read_index` left it; stays the caller's.
        index: Its pictures, at least those that are asked for.
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
            indices: `[f]` into the index, ascending; not before those of an earlier call.

        Returns:
            uint8 `[f, H, W, 3]`, RGB, turned as the file says.

        Raises:
            UnreadableVideoError: the picture of such a time can't be decoded.
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
        raise UnreadableVideoError(f"the file can't be decoded, it may be cut short or damaged ({reason})")

    def _ways_to(self, index: int) -> Iterator[int | None]:
        """Where to begin decoding: None to go on from the last picture, else places to seek, later ones first."""
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
        """Decode until the picture of a tick comes out; None if it does not."""
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
            raise UnreadableVideoError(f"its pictures change their size, from {self._shape[:2]} to {image.shape[:2]}")
        return image

    def _to_rgb(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """Convert colours as the ffmpeg program does, to the last bit (PyAV's own conversion rounds otherwise)."""
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
    """Turn and mirror an image `[H, W, 3]` as a display matrix says (ISO/IEC 14496-12, 6.2.2).

    Args:
        image: As it is stored.
        matrix: As `display_matrix` gives it: what is stored at (x, y) is shown at (a x + c y, b x + d y). Angles
            between the quarter turns are ignored.
    """
    a, b, c, d = np.sign(matrix[[0, 1, 3, 4]])
    if a and d and not b and not c:
        across, down = a, d
    elif b and c and not a and not d:
        image, across, down = image.swapaxes(0, 1), c, b
    else:
        return image
    return image[::down, ::across]
