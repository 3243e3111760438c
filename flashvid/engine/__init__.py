"""The language model's side: prefill, decoding, KV cache, sampling, JSON, pruning. Knows no model family."""
