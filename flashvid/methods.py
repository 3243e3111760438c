"""Compression methods under one interface: FlashVID, its parts, and its rivals. One file each; docs/methods.md."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from flashvid.compression.method import CompressionMethod
from flashvid.config import METHOD_NAMES, MethodName

_MODULES = {
    "flashvid": "flashvid.compression.flashvid",
    "adts": "flashvid.compression.rivals.adts_alone",
    "tstm": "flashvid.compression.rivals.tstm_alone",
}
METHODS: Mapping[MethodName, CompressionMethod] = {
    name: import_module(_MODULES.get(name, f"flashvid.compression.rivals.{name}")).METHOD for name in METHOD_NAMES
}
