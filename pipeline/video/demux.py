"""Read the packets of a file, without decoding: when each picture is shown, and where decoding can start."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from pipeline.errors import UnreadableVideoError
from pipeline.video.bitstream import display_matrix, entry_kind, is_invisible
from pipeline.video.containers import video_stream
from pipeline.video.packet_index import PacketIndex, VideoHeader

# Formats whose clock starts with the broadcast, so a recording does not start at zero.
_RUNNING_CLOCKS = ("mpegts", "mpeg")
# AVI stores no presentation times. The demuxer derives them from the order of the packets, which fails for these codecs
# when they reorder pictures.
_REORDERING_CODECS = ("h264", "hevc")
# Where to seek for a keyframe before a wanted time, in seconds before it; after these, the start of the file.
_LOOK_BACK_S = (0.0, 2.0, 20.0, 200.0)
# Demuxers that seek by presentation time; the others seek by decoding time. In mp4, the decoding time of a keyframe is
# before its presentation time, so seeking to it would land one keyframe too early.
_SOUGHT_BY_PRESENTATION = ("matroska", "mov")
# Demuxers that search by time reach the first packet only if the seek goes this many seconds before it.
BEFORE_ANY_S = 10.0

# Decoding times only rise, within one recording.
_CLOCK_GOES_BACK_S = 1.0

# A header may announce a few frames more than the file has (a dropped last B-frame); a truncated file lacks many.
_FRAMES_MISSING_ALLOWED = 5
_SECONDS_MISSING_ALLOWED = 1.0
_SHARE_MISSING_ALLOWED = 0.02


def read_index(container: InputContainer, start_s: float | None = None, end_s: float | None = None) -> PacketIndex:
    """Read the packets of a file, or of a span of it, and return the index of its pictures.

    Args:
        container: The file, newly opened.
        start_s: Seconds; start at the last keyframe that is not after this time. None for the beginning.
        end_s: Seconds; stop once every picture up to this time is read. None for the end of the file.

    Raises:
        UnreadableVideoError: no video stream, no pictures, no presentation times, a clock that starts again, or a file
            that was cut short.
    """
    stream = video_stream(container)
    time_base = stream.time_base or Fraction(1, av.time_base)
    runs = container.format.name in _RUNNING_CLOCKS
    origin = Fraction(container.start_time or 0, av.time_base) if runs else Fraction(0)
    stream.codec_context.thread_count = 1  # a decode actor reserves one CPU
    found = _Pass(has_picture=start_s is not None)
    last_tick = None if end_s is None else (Fraction(end_s) + origin) / time_base
    packets = container.demux()
    if start_s is not None:
        packets = _packets_before(container, stream, int((Fraction(start_s) + origin) / time_base))
    for packet in packets:
        if packet.size == 0:
            continue  # the demuxer marks the end of a stream with an empty packet
        if packet.stream is not stream:
            found.note_other(packet)
            continue
        if last_tick is not None and packet.dts is not None and packet.dts > last_tick:
            found.reached_end = False
            found.stay_until(packet)
            break
        found.note(packet, stream)
    if not found.num_packets:
        where = "" if start_s is None else f" at {start_s} s or later: the video ends before"
        raise UnreadableVideoError(f"the video stream has no frames{where}")
    reordered = stream.codec_context.name in _REORDERING_CODECS and stream.codec_context.has_b_frames
    if (found.without_time and not found.ticks) or (container.format.name == "avi" and reordered):
        raise UnreadableVideoError(
            f"the container ({container.format.name}) does not say when each frame is shown; "
            "convert the file first: ffmpeg -i IN OUT.mp4"
        )
    if not found.ticks:
        raise UnreadableVideoError("the file can't be decoded; it may be cut short or damaged (it has no keyframe)")
    if found.restarts_at is not None:
        # Otherwise two pictures would have the same time, and one of them would be left out.
        raise UnreadableVideoError(
            f"its clock starts again after {float(found.restarts_at * time_base - origin):.1f} s, as in recordings "
            "that were glued together; give it one clock first: ffmpeg -i IN OUT.mp4"
        )
    whole = start_s is None and found.reached_end
    _check_complete(container, stream, found, whole=whole)
    return _index(container, stream, found, time_base, origin, whole=whole)


@dataclass
class _Pass:
    """Collects the facts of an index while packets are read."""

    ticks: list[int] = field(default_factory=list)
    keyframes: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    traits: dict[str, None] = field(default_factory=dict)  # a set that keeps insertion order
    num_packets: int = 0
    num_keyframes: int = 0  # by the bitstream
    num_false: int = 0  # packets that the demuxer calls keyframes, and the bitstream does not
    without_time: bool = False
    latest: tuple[int, int] = (0, 0)  # start and duration of the last picture, in ticks
    others_end_s: float = 0.0
    reached_end: bool = True
    has_picture: bool = False
    last_dts: int | None = None
    restarts_at: int | None = None  # tick after which the clock went back

    def note(self, packet: av.Packet[Any], stream: av.VideoStream) -> None:
        """Record a packet of the video stream."""
        self.num_packets += 1
        self._note_clock(packet)
        if not self.has_picture:
            self._look_at_first_picture(packet, stream)
        if packet.pts is None:
            self.without_time = True
            return
        if packet.is_keyframe:
            self._note_keyframe(packet, stream)
        if packet.is_discard:
            self.traits["an edit list"] = None
        elif not self.keyframes:
            self.traits["no keyframe at the start"] = None
        elif packet.pts < self.keyframes[0]:
            self.traits["an open GOP"] = None
        elif not is_invisible(packet, stream.codec_context.name):
            self.ticks.append(packet.pts)
            self.latest = max(self.latest, (packet.pts, packet.duration or 0))
            if packet.pts < self.keyframes[-1]:
                self.traits["an open GOP"] = None

    def _note_clock(self, packet: av.Packet[Any]) -> None:
        if packet.dts is None or packet.time_base is None:
            return
        if self.last_dts is not None and (self.last_dts - packet.dts) * packet.time_base > _CLOCK_GOES_BACK_S:
            self.restarts_at = self.last_dts
        self.last_dts = packet.dts

    def stay_until(self, packet: av.Packet[Any]) -> None:
        """Record that the last picture stays on screen until a later packet: not every container says how long."""
        start, duration = self.latest
        if packet.pts is not None:
            self.latest = start, max(duration, packet.pts - start)

    def note_other(self, packet: av.Packet[Any]) -> None:
        """Record the end time of a packet of another stream."""
        if packet.pts is not None and packet.time_base is not None:
            end = (packet.pts + (packet.duration or 0)) * packet.time_base
            self.others_end_s = max(self.others_end_s, float(end))

    def _note_keyframe(self, packet: av.Packet[Any], stream: av.VideoStream) -> None:
        kind = entry_kind(packet, stream.codec_context.name, stream.codec_context.extradata)
        self.num_keyframes += kind != "none"
        self.num_false += kind == "none"
        if kind != "closed":
            self.traits["keyframes that are not IDR pictures"] = None
        if packet.pts is not None and (kind != "none" or not self.keyframes):
            self.keyframes.append(packet.pts)
            self.entries.append(packet.pts if packet.dts is None else packet.dts)

    def _look_at_first_picture(self, packet: av.Packet[Any], stream: av.VideoStream) -> None:
        """Decode up to the first picture, because only decoded pictures tell the rotation."""
        try:
            frames = stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            self.has_picture = True
            self.traits["a first frame that can't be decoded"] = None
            return
        for frame in frames[:1]:
            self.has_picture = True
            if display_matrix(frame) is not None:
                self.traits["a rotation"] = None
            if frame.format.name not in ("yuv420p", "yuvj420p"):
                self.traits[f"the pixel format {frame.format.name}"] = None


def _packets_before(container: InputContainer, stream: av.VideoStream, tick: int) -> Iterator[av.Packet[Any]]:
    """Return packets, starting with the latest keyframe shown at or before `tick` that the demuxer finds."""
    ticks_per_second = 1 / (stream.time_base or Fraction(1, av.time_base))
    codec = stream.codec_context
    begin = stream.start_time or 0
    places = [max(tick - int(back_s * ticks_per_second), begin) for back_s in _LOOK_BACK_S]
    for place in (*places, begin - int(BEFORE_ANY_S * ticks_per_second)):
        with suppress(av.error.PermissionError):  # a demuxer raises this if it finds no such place
            container.seek(place, stream=stream)
        packets = container.demux()
        for packet in packets:
            if packet.stream is not stream or not packet.is_keyframe or packet.pts is None:
                continue
            if packet.pts <= tick and entry_kind(packet, codec.name, codec.extradata) != "none":
                return chain([packet], packets)
            break
    # `tick` is before the first picture where decoding can start: read from the start of the file.
    return chain([packet], packets)


def _check_complete(container: InputContainer, stream: av.VideoStream, found: _Pass, *, whole: bool) -> None:
    """Compare the container's header with the packets that were read.

    Args:
        container: The file.
        stream: The video stream.
        found: Facts from its packets.
        whole: Whether all packets of the file were read; if not, only the index of an mp4 is compared.

    Raises:
        UnreadableVideoError: the file is cut short.
    """
    entries = stream.index_entries
    if container.format.name.startswith("mov") and len(entries):
        if entries[-1].pos + entries[-1].size > container.size:
            raise UnreadableVideoError("the file is cut short: its index names frames beyond the end of the file")
        return
    if not whole:
        return
    # In AVI, chunks without bytes stand for pictures that an encoder dropped; its clock counts the chunks.
    announced = max(found.num_packets, sum(found.latest)) if container.format.name == "avi" else found.num_packets
    missing = stream.frames - announced
    if missing > max(_FRAMES_MISSING_ALLOWED, _SHARE_MISSING_ALLOWED * stream.frames):
        raise UnreadableVideoError(
            f"the file is cut short: its header announces {stream.frames} frames, but it has {found.num_packets}"
        )
    if container.format.name.startswith("matroska") and container.duration:
        promised_s = container.duration / av.time_base
        end_s = max(found.others_end_s, float(sum(found.latest) * (stream.time_base or 0)))
        if promised_s - end_s > max(_SECONDS_MISSING_ALLOWED, _SHARE_MISSING_ALLOWED * promised_s):
            raise UnreadableVideoError(
                f"the file is cut short: its header announces {promised_s:.1f} s, but it has {end_s:.1f} s"
            )


def _index(
    container: InputContainer,
    stream: av.VideoStream,
    found: _Pass,
    time_base: Fraction,
    origin: Fraction,
    *,
    whole: bool,
) -> PacketIndex:
    ticks = np.unique(np.array(found.ticks, dtype=np.int64))
    traits = dict(found.traits)
    if found.without_time:
        traits["frames without a presentation time"] = None
    if len(ticks) < len(found.ticks):
        traits["two frames with the same presentation time"] = None
    name = container.format.name
    if name.startswith("matroska") and container.duration is None:
        traits["no duration"] = None
    # decord believes these flags, which demuxers of today correct for some codecs.
    if whole and sum(entry.is_keyframe for entry in stream.index_entries) > found.num_keyframes:
        traits["sync flags on pictures that are no keyframes"] = None
    if name.startswith("mov") and stream.frames != found.num_packets:
        traits["fragments or an edit list"] = None
    if len(container.streams.video) > 1:
        traits["several video streams"] = None
    if ticks[0] != 0:
        traits["a first frame that is not at time zero"] = None
    times = ticks * time_base.numerator / time_base.denominator - float(origin)
    fps = float(stream.average_rate) if stream.average_rate else None
    end_s = float(sum(found.latest) * time_base - origin)
    header = VideoHeader(
        duration_s=end_s if found.latest[1] or not fps else end_s + 1 / fps,
        fps=fps,
        num_frames=len(ticks),
        width=stream.width,
        height=stream.height,
        container=name,
        codec=stream.codec_context.codec.canonical_name,
    )
    keyframes, first_of = np.unique(np.array(found.keyframes, dtype=np.int64), return_index=True)
    # Among false keyframes, such a demuxer seeks to one that is shown at the time and may be stored after the true one.
    by_presentation = name.startswith(_SOUGHT_BY_PRESENTATION) and not found.num_false
    entries = keyframes if by_presentation else np.array(found.entries, dtype=np.int64)[first_of]
    return PacketIndex(header, ticks, times, keyframes, entries, tuple(traits))
