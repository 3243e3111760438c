"""Compression methods under one interface: FlashVID, its parts, and its rivals. One file each; docs/methods.md."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from flashvid.config import METHOD_NAMES, MethodName
from flashvid.methods.method import CompressionMethod

METHODS: Mapping[MethodName, CompressionMethod] = {
    name: import_module(f"{__name__}.{name}").METHOD for name in METHOD_NAMES
}
