"""The plug-in point of compression methods; see docs/methods.md."""

from flashvid.method_registry import METHODS, CompressionMethod

__all__ = ["METHODS", "CompressionMethod"]
