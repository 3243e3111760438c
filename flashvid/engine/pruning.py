"""Pruning inside the LLM: from one layer on, drop the visual tokens that the last token attends to least.

Source: hybrid compression in the paper; docs/flashvid.md, section 6.
"""

import math

import torch
from torch import Tensor


def last_query_attention(query: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Return the attention of one query to every key, averaged over the heads.

    Args:
        query: `[H, d]`, floating, rotated: the query of the last position.
        keys: `[G, L, d]`, rotated; G divides H, and each serves H / G consecutive heads.
        scaling: Multiplies the dot products.

    Returns:
        `[L]` float32, adding up to 1.
    """
    grouped = query.reshape(keys.shape[0], -1, query.shape[-1])
    logits = (grouped @ keys.transpose(1, 2)) * scaling
    return logits.softmax(dim=-1, dtype=torch.float32).mean(dim=(0, 1))


def kept_positions(attention: Tensor, is_prunable: Tensor, llm_retention_ratio: float) -> Tensor:
    """Return the positions to keep: the prunable ones with the most attention, and all that are not prunable.

    Args:
        attention: `[L]`, floating.
        is_prunable: `[L]` bool.
        llm_retention_ratio: Share of the prunable positions to keep, rounded up.

    Returns:
        Ascending int64 indices into L. Of equal attention, the first positions are kept.
    """
    prunable = is_prunable.nonzero().flatten()
    num_kept = math.ceil(len(prunable) * llm_retention_ratio)
    best = attention[prunable].argsort(descending=True, stable=True)[:num_kept]
    goes_on = ~is_prunable
    goes_on[prunable[best]] = True
    return goes_on.nonzero().flatten()
