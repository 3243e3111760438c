"""Tokens as int8: the documented error bound in every dtype, and values that are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from flashvid import InvalidFeaturesError
from flashvid.quantisation import quantise


def _tokens(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    spread = torch.logspace(-6, 6, 40)[:, None]
    return (torch.randn(40, 24, generator=generator) * spread).clamp(-6e4, 6e4).to(dtype)


def test_the_error_is_half_a_step_of_each_token() -> None:
    """A step is the token's own largest value over 127, whatever the other tokens are."""
    tokens = _tokens()
    before = tokens.clone()
    quantised = quantise(tokens)
    assert torch.equal(tokens, before)
    assert (quantised.values.dtype, quantised.scales.dtype) == (torch.int8, torch.float32)
    restored = quantised.restore(torch.float32)
    for token, back in zip(tokens.double(), restored.double(), strict=True):
        step = token.abs().max() / 127
        assert (token - back).abs().max() <= step * 0.5001
        assert back.abs().max() == pytest.approx(float(token.abs().max()), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_was_restored_stays(dtype: torch.dtype) -> None:
    """Restoring rounds to the requested dtype and adds no other error."""
    tokens = _tokens(dtype)
    quantised = quantise(tokens)
    restored = quantised.restore(dtype)
    assert restored.dtype == dtype
    assert torch.equal(restored, quantised.restore(torch.float32).to(dtype))


def test_extremes() -> None:
    """Zeros stay zeros, values whose scale underflows become zeros, and empty inputs work."""
    tokens = torch.tensor([[0.0, 0.0], [1e-45, -1e-45], [3e38, -3e38], [-1.0, 1.0]])
    restored = quantise(tokens).restore(torch.float32)
    assert restored[:2].abs().max() <= 1e-44
    torch.testing.assert_close(restored[2:], tokens[2:])
    for empty in (torch.zeros(0, 5), torch.zeros(3, 0)):
        assert quantise(empty).restore(torch.float32).shape == empty.shape


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    tokens = _tokens()
    tokens[3, 4] = value
    with pytest.raises(InvalidFeaturesError, match="not finite"):
        quantise(tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_largest_values_stay_finite(dtype: torch.dtype) -> None:
    """Rounded up, 127 times the scale may exceed the largest value."""
    largest = torch.finfo(dtype).max
    tokens = torch.tensor([[largest, -largest], [0.999 * largest, 1.0]]).to(dtype)
    restored = quantise(tokens).restore(dtype)
    assert restored.isfinite().all()
    torch.testing.assert_close(restored[0], tokens[0], rtol=0.01, atol=0)


@pytest.mark.parametrize("tokens", [torch.zeros(5), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.int64)])
def test_only_floating_rows_are_tokens(tokens: Tensor) -> None:
    with pytest.raises(InvalidFeaturesError, match=r"tokens must be floating \[M, D\]"):
        quantise(tokens)
