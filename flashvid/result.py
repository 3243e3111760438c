"""The input and output types of a compression method; see docs/methods.md."""

from flashvid.compression.result import ClipFeatures, CompressionResult, Rows, assemble, widened

__all__ = ["ClipFeatures", "CompressionResult", "Rows", "assemble", "widened"]
