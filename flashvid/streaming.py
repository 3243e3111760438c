"""Compression of long videos block by block; see docs/streaming.md."""

from flashvid.compression.streaming import StreamedSegment, compress_stream, joined

__all__ = ["StreamedSegment", "compress_stream", "joined"]
