"""Read the few facts from packets and pictures that containers get wrong or omit."""

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
    """Return which pictures can be decoded from a packet on that the container marks as a keyframe.

    Args:
        packet: The packet.
        codec: Name of the codec, for example ``h264``.
        extradata: The codec's header in the container, for h264 the avcC box.

    Returns:
        closed: this picture and every later packet. open: this picture and the pictures shown after it. none: no
        picture for certain, as in a gradual refresh. Only h264 is inspected; other codecs return closed, although
        their keyframes may be open.
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


def _nal_units(content: bytes, extradata: bytes | None) -> Iterator[bytes]:
    if not extradata or extradata[0] != 1:  # without an avcC box, units have start codes, not lengths, as in MPEG-TS
        yield from (unit for unit in content.split(b"\0\0\1")[1:] if unit)
        return
    prefix, place = (extradata[4] & 3) + 1, 0
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
