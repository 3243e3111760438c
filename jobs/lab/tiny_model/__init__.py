"""The embedded `tiny` model: a small Qwen2.5-VL, trained from scratch on videos that are generated from a seed."""
