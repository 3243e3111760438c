"""Batch sizes that both planning and the engine use; importing this module loads nothing else."""

# Most rows of a matmul in a decode step. Fewer rows are padded, so that a token's logits are bit-identical in any batch
# (row_sizes.py). A step mostly reads weights: a GPU takes little longer for 64 rows than for one (also for 128, but
# those caches would seldom fit), and a CPU gains little beyond 16.
CPU_DECODE_ROWS, GPU_DECODE_ROWS = 16, 64
# Most rows of a matmul in the prefill of questions: more gain nothing from one pass over the weights, on either device.
QUESTION_ROWS = 256
# Most tokens in the KV cache at once: one answer of 768 tokens for each row of a GPU's step, and a prefix of 1,024.
# For Qwen2.5-VL-7B in bfloat16 these take 2.9 GB.
MAX_BATCH_TOKENS = 64 * 768 + 1024
