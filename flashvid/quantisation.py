"""Tokens as 8-bit integers with one scale per token: a quarter of float32 and half of bfloat16, at a known error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashvid.errors import InvalidFeaturesError

_LARGEST = 127


@dataclass(frozen=True, eq=False)
class QuantisedTokens:
    """Tokens as symmetric 8-bit integers.

    Attributes:
        values: `[M, D]` int8, from -127 to 127.
        scales: `[M]` float32: a token is its values times its scale. 0 for a token of zeros.
    """

    values: Tensor
    scales: Tensor

    def restore(self, dtype: torch.dtype) -> Tensor:
        """The tokens again: `[M, D]`, multiplied in float32 and rounded to `dtype`, the same everywhere.

        What rounding took beyond the range of `dtype` is its largest value: it was within, so that is nearest.
        """
        limit = torch.finfo(dtype).max
        return (self.values.to(torch.float32) * self.scales[:, None]).clamp(-limit, limit).to(dtype)


def quantise(tokens: Tensor) -> QuantisedTokens:
    """Round each token to multiples of its largest magnitude over 127.

    `restore(torch.float32)` is off by at most half a scale in every value, up to float32's own rounding; a `dtype` of
    fewer digits adds its own.

    Args:
        tokens: `[M, D]`, floating; not changed.

    Raises:
        InvalidFeaturesError: Not a floating `[M, D]`, or a value is not finite in float32, for which there is no scale.
    """
    if tokens.ndim != 2 or not tokens.is_floating_point():
        raise InvalidFeaturesError(f"tokens must be floating [M, D], not {tokens.dtype} {list(tokens.shape)}")
    wide = tokens.detach().to(torch.float32)
    if not bool(wide.isfinite().all()):
        raise InvalidFeaturesError("tokens that are not finite cannot be stored as int8")
    # Without columns there is nothing to take the largest of.
    largest = wide.abs().amax(dim=1) if wide.shape[1] else wide.new_zeros(len(wide))
    scales = largest / _LARGEST
    # A token of zeros, or of values so small that their scale is none: zeros.
    divisors = torch.where(scales > 0, scales, torch.inf)
    values = (wide / divisors[:, None]).round().clamp(-_LARGEST, _LARGEST)
    return QuantisedTokens(values.to(torch.int8), scales)
