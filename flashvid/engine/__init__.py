"""The LLM: prefill, decode, KV cache, sampling, JSON and pruning, without any model family."""
