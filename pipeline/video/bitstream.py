"""The few bits inside packets and pictures that containers get wrong or leave out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from numpy.typing import NDArray

EntryKind = Literal["closed", "open", "none"]

# nal_unit_type (ITU-T H.264, table 7-1) and payloadType of a recovery point (annex D.1).
_IDR, _SEI = 5, 6
_RECOVERY_POINT = 6


def entry_kind(packet: av.Packet[Any], codec: str, extradata: bytes | None) -> EntryKind:
    """What decoding can begin with at a packet that the container calls a keyframe.

    Returns:
        closed: with everything from here on. open: with this picture and all that are shown after it. none: with
        nothing for certain, as in a gradual refresh. Codecs other than h264 mark only what is at least open.
    """
    if codec != "h264":
        return "closed"
    kind: EntryKind = "none"
    for unit in _nal_units(bytes(packet), extradata):
        if unit[0] & 0x1F == _IDR:
            return "closed"
        if unit[0] & 0x1F == _SEI and _recovers_at_once(unit):
            kind = "open"
    return kind


def is_invisible(packet: av.Packet[Any], codec: str) -> bool:
    """VP8's alternate reference pictures have packets, and are never shown (RFC 6386, 9.1: show_frame)."""
    return codec == "vp8" and not bytes(packet)[0] & 0x10


def display_matrix(frame: av.VideoFrame) -> NDArray[np.int32] | None:
    """How a picture is to be turned for display: `[9]` a, b, u, c, d, v, x, y, w (ISO/IEC 14496-12, 6.2.2)."""
    parts: Any = frame.side_data
    found = [np.frombuffer(part, dtype=np.int32) for part in parts if part.type == SideDataType.DISPLAYMATRIX]
    return found[0] if found else None


def _nal_units(content: bytes, extradata: bytes | None) -> Iterator[bytes]:
    if not extradata or extradata[0] != 1:  # no avcC box: start codes instead of lengths, as in MPEG-TS
        yield from (unit for unit in content.split(b"\0\0\1")[1:] if unit)
        return
    prefix, place = (extradata[4] & 3) + 1, 0
    while place + prefix < len(content):
        end = place + prefix + int.from_bytes(content[place : place + prefix], "big")
        if end == place + prefix:
            return  # nothing but zeros: damaged
        yield content[place + prefix : end]
        place = end


def _recovers_at_once(sei: bytes) -> bool:
    """Whether an SEI unit says that this very picture is a recovery point (D.1.8: recovery_frame_cnt is 0)."""
    place = 1
    while place + 2 < len(sei):
        sizes = []
        for _ in range(2):  # payloadType, payloadSize: bytes of 255 go on
            value = 0
            while place < len(sei) and sei[place] == 0xFF:
                value, place = value + 255, place + 1
            value, place = value + (sei[place] if place < len(sei) else 0), place + 1
            sizes.append(value)
        kind, size = sizes
        if kind == _RECOVERY_POINT and place < len(sei):
            return bool(sei[place] & 0x80)  # the Exp-Golomb code of 0 is a single 1
        place += size
    return False
