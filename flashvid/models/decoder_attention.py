"""How a decoder's tokens attend: each sequence's newest tokens to all of its own, or each slot's newest one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

from flashvid.errors import ConfigurationError
from flashvid.models.kv_cache import KVCache
from flashvid.models.kv_slots import KVSlots

# Sequences packed one behind the other: each one's cache, and how many of the tokens are its own.
PackedSequences = Sequence[tuple[KVCache, int]]
# A layer's number and attention module, rotated queries `[H, L, d]`, keys and values `[G, L, d]` of the new tokens,
# which it adds to the caches; what these attend to `[L, H * d]`. Tokens behind those of the sequences get zeros.
Attend = Callable[[int, nn.Module, Tensor, Tensor, Tensor], Tensor]


def check_implementation(implementation: str) -> None:
    """Whether a decoder can attend like that.

    Raises:
        ConfigurationError: it can't.
    """
    if implementation not in ("eager", "sdpa") and "flash_attention" not in implementation:
        raise ConfigurationError(f"attention implementation {implementation!r} is none of eager, sdpa, flash_attention")


class SequenceAttention:
    """Causal attention over each sequence by itself, at its own length."""

    def __init__(self, implementation: str, sequences: PackedSequences) -> None:
        self._implementation = implementation
        self._function: Any = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        self._sequences = sequences
        # One mask for all layers of a length: out of a bool, torch would make another in every layer.
        self._masks: dict[tuple[int, int], Tensor | None] = {}

    def __call__(self, layer: int, attention: nn.Module, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`."""
        heads, tokens, width = queries.shape
        attended = queries.new_zeros(tokens, heads * width)
        first = 0
        for cache, length in self._sequences:
            span = slice(first, first + length)
            all_keys, all_values = cache[layer].append(keys[:, span], values[:, span])
            shape_of_mask = (length, all_keys.shape[1])
            if shape_of_mask not in self._masks:
                self._masks[shape_of_mask] = _causal_mask(self._implementation, *shape_of_mask, queries)
            attended[span] = self._attend(attention, queries[:, span], all_keys, all_values, self._masks[shape_of_mask])
            first += length
        return attended

    def _attend(
        self, attention: nn.Module, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Causal attention of one sequence's newest L tokens `[H, L, d]` to all `[G, P + L, d]`; `[L, H * d]`."""
        scaling = cast("float", attention.scaling)
        batch = queries.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0)
        if mask is not None and self._implementation == "sdpa" and queries.device.type == "cpu":
            # Transformers repeats every key and value for its group of queries here, since masked kernels of CUDA want
            # that; the CPU's does not, and the sums are the same bits.
            grouped = functional.scaled_dot_product_attention(*batch, mask, scale=scaling, enable_gqa=True)
            return grouped.transpose(1, 2).reshape(queries.shape[1], -1)
        output, _ = self._function(attention, *batch, mask, scaling=scaling, dropout=0.0)
        return cast("Tensor", output.reshape(queries.shape[1], -1))


class SlotAttention:
    """Attention of every slot's newest token, one call for all slots that are in the same tensors."""

    def __init__(self, implementation: str, batches: Sequence[KVSlots]) -> None:
        # Flash attention takes no mask, and has nothing to gain on one query.
        self._attend = _eager if implementation == "eager" else _sdpa
        self._batches = batches

    def __call__(self, layer: int, attention: nn.Module, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`."""
        heads, tokens, width = queries.shape
        attended = queries.new_zeros(tokens, heads * width)
        first = 0
        for slots in self._batches:
            span = slice(first, first + len(slots))
            own = (part[:, span].transpose(0, 1) for part in (keys, values))
            all_keys, all_values, mask = slots.put(layer, *own)
            # The heads of a group have the same keys: as if they were tokens of one head, nothing is read twice.
            grouped = queries[:, span].transpose(0, 1).reshape(len(slots), keys.shape[0], -1, width)
            output = self._attend(grouped, all_keys, all_values, mask, cast("float", attention.scaling))
            attended[span] = output.reshape(len(slots), -1)
            first += len(slots)
        return attended


def _sdpa(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
    return functional.scaled_dot_product_attention(queries, keys, values, mask, scale=scaling)


def _eager(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """As transformers' eager attention."""
    scores = queries @ keys.transpose(-1, -2) * scaling + mask
    return scores.softmax(dim=-1, dtype=torch.float32).to(queries.dtype) @ values


def _causal_mask(implementation: str, length: int, total: int, like: Tensor) -> Tensor | None:
    """Which of `total` keys each of the newest `length` tokens sees, as an attention implementation wants it."""
    # Without a mask, sdpa and flash attention are causal; but sdpa only if nothing is cached.
    if length == 1 or "flash" in implementation or (implementation == "sdpa" and length == total):
        return None
    seen = torch.ones(length, total, dtype=torch.bool, device=like.device).tril(total - length)
    # Transformers' own eager masks hold the least number, sdpa makes an infinite one of False.
    unseen = torch.finfo(like.dtype).min if implementation == "eager" else -math.inf
    return like.new_zeros(length, total).masked_fill_(~seen, unseen)[None, None]
