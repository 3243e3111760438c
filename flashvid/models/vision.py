"""The attention that patches receive, from queries and keys: no attention implementation returns its probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

# Queries whose probabilities are in memory together: heads x this x patches of one step.
_QUERIES_AT_ONCE = 512


def received_attention(queries: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Mean over heads and queries of the attention each patch receives within its temporal step (spec 7).

    In blocks of queries, one step after another, so that memory is linear in the number of patches.

    Args:
        queries: `[T, heads, P, d]`, floating, after any rotation.
        keys: `[T, heads, P, d]`.
        scaling: Of the products of the two.

    Returns:
        `[T, P]` float32; each step adds up to 1.
    """
    steps, heads, num_patches, _ = queries.shape
    received = torch.zeros(steps, num_patches, device=queries.device)
    for step in range(steps):
        step_keys = keys[step].transpose(-1, -2)
        for block in torch.split(queries[step], _QUERIES_AT_ONCE, dim=1):
            logits = (block @ step_keys).mul_(scaling)
            received[step] += logits.softmax(dim=-1, dtype=torch.float32).sum(dim=(0, 1))
    return received / (heads * num_patches)
