"""Inner products of the tokens of a frame, and of their lengths: where nearly all the time goes."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_LENGTH = 1e-12


def gram(tokens: Tensor) -> Tensor:
    """All inner products within each frame: `[F, m, D]` to `[F, m, m]`, symmetric to the last bit.

    A plain matrix product may round [i, j] and [j, i] differently, and would then decide which of two mutual
    neighbours is nearer. One quarter is mirrored from another, which also saves its cost.
    """
    num_tokens = tokens.shape[1]
    halves = [num_tokens // 2, num_tokens - num_tokens // 2]
    products = tokens.new_empty(len(tokens), num_tokens, num_tokens)
    upper, lower = torch.split(tokens, halves, dim=1)
    top, bottom = torch.split(products, halves, dim=1)
    left, right = torch.split(bottom, halves, dim=2)
    torch.bmm(upper, tokens.mT, out=top)
    torch.bmm(lower, lower.mT, out=right)
    left.copy_(top[:, :, halves[0] :].mT)
    # The two quarters on the diagonal still are plain products.
    return torch.maximum(products, products.mT)


def inverse_lengths(tokens: Tensor, *, reference_compatible: bool) -> Tensor:
    """What to multiply vectors with to make them 1 long: `[..., D]` to `[...]`, same dtype.

    The reference has no epsilon, so its cosine with a zero vector is NaN (infinity times zero). Otherwise it is 0.
    """
    lengths: Tensor = torch.linalg.vector_norm(tokens, dim=-1)
    return (lengths if reference_compatible else lengths.clamp_min(SMALLEST_LENGTH)).reciprocal()
