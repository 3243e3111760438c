"""Compression methods under one interface: FlashVID, its parts, and its rivals. One file each; docs/methods.md."""

from __future__ import annotations

from collections.abc import Mapping

from flashvid.config import MethodName
from flashvid.methods.flashvid import FLASHVID
from flashvid.methods.method import CompressionMethod
from flashvid.methods.parts import ADTS, TSTM

METHODS: Mapping[MethodName, CompressionMethod] = {
    "flashvid": FLASHVID,
    "adts": ADTS,
    "tstm": TSTM,
}
