"""Qwen2.5-VL: `family` needs neither torch nor transformers, `preprocess` and `positions` only torch."""
