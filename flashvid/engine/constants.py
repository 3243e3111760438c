"""Sizes of a batch that planning needs to know as well as the engine; importing them loads nothing else."""

# Rows of a matrix product while decoding, at most. Fewer are padded, so that a token's logits are the same bits in
# any batch (row_sizes.py). Reading the weights is what a step costs: a GPU takes little longer for 64 rows than for
# one (and for 128, whose caches would seldom fit), a CPU gains little beyond 16.
CPU_DECODE_ROWS, GPU_DECODE_ROWS = 16, 64
# Likewise while questions are prefilled: as many as one pass over the weights is worth, on either device.
QUESTION_ROWS = 256
# Tokens in memory together while answering, at most: as many answers as a GPU's step has rows for, of 768 tokens each,
# and a prefix of up to 1,024. 2.9 GB of keys and values for Qwen2.5-VL-7B in bfloat16.
MAX_BATCH_TOKENS = 64 * 768 + 1024
