"""What a compression method gets and returns; see docs/methods.md."""

from flashvid.compression.result import ClipFeatures, CompressionResult, Rows, assemble, widened

__all__ = ["ClipFeatures", "CompressionResult", "Rows", "assemble", "widened"]
