"""Qwen2.5-VL: `facts` needs neither torch nor transformers, `preprocess` only torch."""
