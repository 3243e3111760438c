"""Read the few facts from packets and pictures that containers get wrong or omit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

EntryKind = Literal["closed", "open", "none"]

# nal_unit_type (ITU-T H.264, table 7-1) and payloadType of a recovery point (annex D.1).
_IDR, _SEI = 5, 6
_RECOVERY_POINT = 6
# nal_unit_type of H.265, table 7-1: pictures that start a sequence, and clean random access.
_HEVC_STARTS, _HEVC_CRA, _HEVC_LAST_PICTURE = range(16, 21), 21, 31
# OBU types of AV1, 6.2.2.
_AV1_FRAMES = (3, 6)


def entry_kind(packet: av.Packet[Any], codec: str, extradata: bytes | None) -> EntryKind:
    """Return which pictures can be decoded from a packet on, by its own bytes: the flags of containers are often wrong.

    Args:
        packet: The packet.
        codec: Name of the codec, for example ``h264``.
        extradata: The codec's header in the container, for h264 the avcC box, for hevc the hvcC box.

    Returns:
        closed: this picture and every later packet. open: this picture and the pictures shown after it. none: no
        picture for certain, as in a gradual refresh. Of codecs that are not in `_READERS`, packets that the container
        marks as keyframes are closed.
    """
    if codec == "h264":
        return _h264_kind(bytes(packet), extradata)
    if codec in _READERS:
        return _READERS[codec](bytes(packet), extradata)
    return "closed"


def _h264_kind(content: bytes, extradata: bytes | None) -> EntryKind:
    kind: EntryKind = "none"
    for unit in _nal_units(content, extradata, length_at=4):
        if unit[0] & 0x1F == _IDR:
            return "closed"
        if unit[0] & 0x1F == _SEI and _recovers_at_once(unit):
            kind = "open"
    return kind


def _hevc_kind(content: bytes, extradata: bytes | None) -> EntryKind:
    for unit in _nal_units(content, extradata, length_at=21):
        kind = unit[0] >> 1 & 0x3F
        if kind in _HEVC_STARTS:
            return "closed"
        if kind <= _HEVC_LAST_PICTURE:
            return "open" if kind == _HEVC_CRA else "none"
    return "none"


def _mpeg4_kind(content: bytes, _: bytes | None) -> EntryKind:
    """Return the kind of an MPEG-4 part 2 packet, by vop_coding_type (6.2.5) of its first picture."""
    place = content.find(b"\0\0\1\xb6")
    return "closed" if 0 <= place < len(content) - 4 and content[place + 4] >> 6 == 0 else "none"


def _mpeg2_kind(content: bytes, _: bytes | None) -> EntryKind:
    """Return the kind of an MPEG-1 or MPEG-2 packet, by picture_coding_type (ISO/IEC 13818-2, 6.2.3)."""
    place = content.find(b"\0\0\1\0")
    return "closed" if 0 <= place < len(content) - 5 and content[place + 5] >> 3 & 7 == 1 else "none"


def _vp8_kind(content: bytes, _: bytes | None) -> EntryKind:
    return "closed" if content[0] & 1 == 0 else "none"


def _vp9_kind(content: bytes, _: bytes | None) -> EntryKind:
    """Return the kind of a VP9 packet, by frame_type of its uncompressed header (6.2)."""
    profile = content[0] >> 5 & 1 | content[0] >> 3 & 2
    shift = 2 if profile == 3 else 3  # of show_existing_frame; profile 3 has a reserved bit before it
    return "closed" if content[0] >> shift & 1 == 0 and content[0] >> (shift - 1) & 1 == 0 else "none"


def _av1_kind(content: bytes, _: bytes | None) -> EntryKind:
    """Return the kind of an AV1 packet, by frame_type of the header of its first frame (5.9.2)."""
    place = 0
    while place < len(content):
        header, place = content[place], place + (2 if content[place] & 4 else 1)
        size = len(content) - place
        if header & 2:
            size, place = _leb128(content, place)
        if header >> 3 & 15 in _AV1_FRAMES and place < len(content):
            return "closed" if content[place] & 0xE0 == 0 else "none"  # show_existing_frame 0, frame_type 0
        place += size
    return "none"


_READERS: Mapping[str, Callable[[bytes, bytes | None], EntryKind]] = {
    "hevc": _hevc_kind,
    "mpeg4": _mpeg4_kind,
    "mpeg1video": _mpeg2_kind,
    "mpeg2video": _mpeg2_kind,
    "vp8": _vp8_kind,
    "vp9": _vp9_kind,
    "av1": _av1_kind,
    "libdav1d": _av1_kind,
}


def _leb128(content: bytes, place: int) -> tuple[int, int]:
    """Return a number of 7 bits a byte, and the place after it."""
    value = 0
    for count in range(8):
        if place >= len(content):
            break
        value, place = value | (content[place] & 0x7F) << 7 * count, place + 1
        if not content[place - 1] & 0x80:
            break
    return value, place


def is_invisible(packet: av.Packet[Any], codec: str) -> bool:
    """Return whether a packet holds a picture that is never shown: a VP8 alternate reference (RFC 6386, 9.1)."""
    return codec == "vp8" and not bytes(packet)[0] & 0x10


def display_matrix(frame: av.VideoFrame) -> NDArray[np.int32] | None:
    """Return the display matrix of a frame; None if it has none.

    Returns:
        int32 `[9]`: a, b, u, c, d, v, x, y, w (ISO/IEC 14496-12, 6.2.2).
    """
    parts: Any = frame.side_data
    found = [np.frombuffer(part, dtype=np.int32) for part in parts if part.type == SideDataType.DISPLAYMATRIX]
    return found[0] if found else None


def _nal_units(content: bytes, extradata: bytes | None, length_at: int) -> Iterator[bytes]:
    """Yield the NAL units of a packet; `length_at` is where the box of the codec says how long their lengths are."""
    if not extradata or extradata[0] != 1 or len(extradata) <= length_at:
        # Without such a box, units have start codes, not lengths, as in MPEG-TS.
        yield from (unit for unit in content.split(b"\0\0\1")[1:] if unit)
        return
    prefix, place = (extradata[length_at] & 3) + 1, 0
    while place + prefix < len(content):
        end = place + prefix + int.from_bytes(content[place : place + prefix], "big")
        if end == place + prefix:
            return  # a unit of length 0: the packet is damaged
        yield content[place + prefix : end]
        place = end


def _recovers_at_once(sei: bytes) -> bool:
    """Return whether an SEI unit marks its own picture as a recovery point (H.264, D.1.8: recovery_frame_cnt is 0)."""
    place = 1
    while place + 2 < len(sei):
        sizes = []
        for _ in range(2):  # payloadType and payloadSize; a byte of 255 means that another byte follows
            value = 0
            while place < len(sei) and sei[place] == 0xFF:
                value, place = value + 255, place + 1
            value, place = value + (sei[place] if place < len(sei) else 0), place + 1
            sizes.append(value)
        kind, size = sizes
        if kind == _RECOVERY_POINT and place < len(sei):
            return bool(sei[place] & 0x80)  # the Exp-Golomb code of 0 is a single 1 bit
        place += size
    return False
