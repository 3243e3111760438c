"""What a compression method is made from; see docs/methods.md."""

from flashvid.compression.method import first_of_each_frame, frame_budgets, keep, merge_into
from flashvid.method_registry import CompressionMethod

__all__ = ["CompressionMethod", "first_of_each_frame", "frame_budgets", "keep", "merge_into"]
