"""Qwen2.5-VL: `preprocess` and `positions` need no transformers, `vision` and `language` do."""
