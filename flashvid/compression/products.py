"""Inner products and lengths of the tokens of a frame: nearly all of the running time."""

import torch
from torch import Tensor

SMALLEST_LENGTH = 1e-12


def gram(tokens: Tensor) -> Tensor:
    """Return all inner products within each frame: `[F, m, D]` to `[F, m, m]`, symmetric to the last bit.

    A plain matmul may round [i, j] and [j, i] differently, and rounding would then decide which of two mutual
    neighbours is nearer. One quarter is mirrored from another, which also saves its computation.
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
    # The two quarters on the diagonal are still plain matmuls.
    return torch.maximum(products, products.mT)


def inverse_lengths(tokens: Tensor, *, reference_compatible: bool) -> Tensor:
    """Return the inverse lengths of vectors: `[..., D]` to `[...]`, same dtype.

    The reference has no epsilon, so its cosine with a zero vector is NaN (infinity times zero). Otherwise it is 0.
    """
    lengths: Tensor = torch.linalg.vector_norm(tokens, dim=-1)
    return (lengths if reference_compatible else lengths.clamp_min(SMALLEST_LENGTH)).reciprocal()
