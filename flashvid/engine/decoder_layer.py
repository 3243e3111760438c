"""One layer of a Hugging Face decoder in few operations.

On a GPU, a decode step takes as long as reading the weights, or as launching its operations if Python is slower. So
projections that read the same states are one matmul, queries and keys are rotated together, and a norm is one call.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from flashvid.engine.decoder_attention import Attend
from flashvid.engine.row_sizes import Product

# Most values that torch computes in one thread on a CPU (its grain size).
_UNCUT = 32768
# Cosines, and sines whose first half is negated, `[L, 1, d]` each.
Rotary = tuple[Tensor, Tensor]


class DecoderLayer:
    """A layer with the structure of Qwen2: norm, attention, norm, gated feed-forward."""

    def __init__(self, index: int, layer: nn.Module) -> None:
        """Take a layer; its projections' weights become views of larger tensors with the same values.

        Args:
            index: Number of the layer.
            layer: Qwen2DecoderLayer or a layer with the same structure.
        """
        # The classes differ between families; the attributes used here do not.
        modules = cast("Any", layer)
        self._index = index
        self._attention, self._mlp = modules.self_attn, modules.mlp
        self._norms = modules.input_layernorm, modules.post_attention_layernorm
        self._width = self._attention.head_dim
        projections = (self._attention.q_proj, self._attention.k_proj, self._attention.v_proj)
        self._queries, self._keys, _ = (projection.out_features // self._width for projection in projections)
        self._qkv = _fused(projections)
        self._gate_up = _fused((self._mlp.gate_proj, self._mlp.up_proj))
        self._head_norm: tuple[Tensor, float] | None = None
        if hasattr(self._attention, "q_norm"):
            norms = self._attention.q_norm, self._attention.k_norm
            counts = self._queries, self._keys
            weights = [norm.weight.detach().expand(count, -1) for norm, count in zip(norms, counts, strict=True)]
            self._head_norm = torch.cat(weights), norms[0].variance_epsilon

    @property
    def products(self) -> list[Product]:
        """Return every function that rows go through, with the width of its input."""
        outward, inward = self._attention.o_proj, self._qkv[0].shape[1]
        feed_forward = partial(self._feed_forward, by_rows=True)
        return [(self._project, inward), (outward, outward.in_features), (feed_forward, inward)]

    def __call__(self, hidden: Tensor, rotary: Rotary, attend: Attend, rows: int | None) -> tuple[Tensor, Tensor]:
        """Return the states `[L, D]` after the layer, and the rotated queries `[L, H, d]`.

        Args:
            hidden: `[L, D]`: states before the layer, of packed tokens.
            rotary: Rotary embedding of the tokens' positions.
            attend: Attention of the tokens.
            rows: Rows of each matmul, block after block. None runs all rows in one matmul; the last bits of a row may
                then depend on its place.
        """
        feed_forward = partial(self._feed_forward, by_rows=rows is not None)
        projected = _in_blocks(self._project, rms_norm(self._norms[0], hidden), rows)
        heads = projected.view(len(hidden), -1, self._width)
        queries, keys, values = self._rotated(heads, rotary)
        attended = attend(self._index, self._attention, queries, keys, values)
        hidden = hidden + _in_blocks(self._attention.o_proj, attended, rows)
        return hidden + _in_blocks(feed_forward, rms_norm(self._norms[1], hidden), rows), queries

    def _project(self, states: Tensor) -> Tensor:
        """Return queries, keys and values of all heads: `[L, (H + 2 G) * d]`."""
        return functional.linear(states, *self._qkv)

    def _feed_forward(self, states: Tensor, *, by_rows: bool) -> Tensor:
        gate, up = functional.linear(states, *self._gate_up).chunk(2, dim=-1)
        activated = activated_by_rows(self._mlp.act_fn, gate) if by_rows else self._mlp.act_fn(gate)
        return cast("Tensor", self._mlp.down_proj(activated * up))

    def _rotated(self, heads: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries `[L, H, d]`, rotated keys and values `[L, G, d]`."""
        turning, values = torch.split_with_sizes(heads, [self._queries + self._keys, self._keys], dim=1)
        if self._head_norm is not None:
            weight, epsilon = self._head_norm
            turning = functional.rms_norm(turning, (self._width,), None, epsilon) * weight
        cos, sin = rotary
        # Each value is rotated with the one half a head's width away.
        turned = torch.addcmul(turning * cos, turning.roll(self._width // 2, dims=-1), sin)
        queries, keys = torch.split_with_sizes(turned, [self._queries, self._keys], dim=1)
        return queries, keys, values


def activated_by_rows(activation: Callable[[Tensor], Tensor], states: Tensor) -> Tensor:
    """Return an activation of states `[L, D]`, with the same bits for a row wherever it is.

    The states are a view into wider rows, so torch computes row by row. On a CPU it splits many values between threads,
    also within rows, and computes the values next to a split with other instructions. It does not split few values.
    """
    if states.device.type != "cpu" or states.numel() <= _UNCUT:
        return activation(states)
    return _in_blocks(activation, states, max(1, _UNCUT // states.shape[1]))


def rms_norm(norm: nn.Module, states: Tensor) -> Tensor:
    """Apply a Hugging Face RMSNorm, in two operations instead of eight: in float32, weighted in the states' dtype."""
    settings = cast("Any", norm)
    normed = functional.rms_norm(states, states.shape[-1:], None, settings.variance_epsilon)
    return cast("Tensor", settings.weight * normed)


def _fused(projections: Sequence[Any]) -> tuple[Tensor, Tensor | None]:
    """Concatenate weights, and biases, by rows; the modules keep views of the result, so there is no second copy."""
    fused: list[Tensor | None] = []
    for name in ("weight", "bias"):
        parts = [getattr(projection, name) for projection in projections]
        if parts[0] is None:
            fused.append(None)
            continue
        if (neighbours := _as_one([part.data for part in parts])) is not None:
            fused.append(neighbours)
            continue
        whole = torch.cat([part.data for part in parts])
        for part, view in zip(parts, torch.split(whole, [len(part) for part in parts]), strict=True):
            part.data = view
        fused.append(whole)
    return cast("tuple[Tensor, Tensor | None]", tuple(fused))


def _as_one(parts: Sequence[Tensor]) -> Tensor | None:
    """Return tensors as one if they are already adjacent in memory, fused by an earlier decoder; else None."""
    first, size = parts[0], sum(len(part) for part in parts)
    expected = first.storage_offset()
    for part in parts:
        if part.untyped_storage().data_ptr() != first.untyped_storage().data_ptr() or part.storage_offset() != expected:
            return None
        expected += part.numel()
    return first.as_strided((size, *first.shape[1:]), first.stride())


def _in_blocks(module: Callable[[Tensor], Tensor], states: Tensor, rows: int | None) -> Tensor:
    """Return a module's output for states `[L, D]`, computed `rows` rows at a time."""
    if rows is None or len(states) <= rows:
        return module(states)
    return torch.cat([module(block) for block in torch.split(states, rows)])
