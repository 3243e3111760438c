"""Causal attention of a decoder's newest tokens: of one sequence with its cache, or of many slots in one call."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2.modeling_qwen2 import eager_attention_forward

from flashvid.engine.kv_slots import ROOM, KVSlots, Section

# Most queries of a slot that share a call with other slots. A slot with more gets a call of its own, which needs no
# mask of all queries times all keys.
_MOST_PADDED = 256
# Takes a layer's number and attention module, and rotated queries `[L, H, d]`, keys and values `[L, G, d]` of the new
# tokens. It adds keys and values to the caches and returns `[L, H * d]`, zeros for padding after the sequences.
Attend = Callable[[int, nn.Module, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class SlotTokens:
    """Numbers of tokens that are added to slots.

    Attributes:
        slots: The slots. More than one token is added only right after `KVSlots.begin`, with that many tokens.
        counts: Tokens added to each slot, at least one.
        padded: Number of queries that each slot is padded to, at least its count; 1 in a decode step. The last bits of
            a result may depend on it, so it must follow from each slot's own tokens.
    """

    slots: KVSlots
    counts: Sequence[int]
    padded: int


class SlotAttention:
    """Causal attention of the newest tokens of slots, with one call for all slots in the same tensors."""

    def __init__(self, implementation: str, batches: Sequence[SlotTokens]) -> None:
        self._alone = CausalAttention(implementation)
        self._is_eager = implementation == "eager"
        self._batches = batches
        # For each batch, in the section of the current layer.
        self._places: list[_Places] = []

    def __call__(self, layer: int, attention: nn.Module, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `Attend`."""
        attended = []
        counts = [places.tokens for places in self._in(layer, queries.shape[1] // keys.shape[1])]
        filling = len(queries) - sum(counts)
        parts = (torch.split_with_sizes(part, [*counts, filling]) for part in (queries, keys, values))
        for places, own, *new in zip(self._places, *parts, strict=False):
            all_keys, all_values = places.put(layer, *new)
            if places.mask is not None:
                scaling, padded = cast("float", attention.scaling), places.padded(own)
                output = _attend_together(padded, all_keys, all_values, places.mask, scaling, eager=self._is_eager)
                attended.append(places.unpadded(output))
            else:
                for slot, (part, length) in enumerate(zip(own.split(places.counts), places.lengths, strict=True)):
                    seen = (tensor[slot, :, :length] for tensor in (all_keys, all_values))
                    attended.append(self._alone(attention, part.transpose(0, 1), *seen))
        if filling:
            attended.append(queries.new_zeros(filling, queries[0].numel()))
        return attended[0] if len(attended) == 1 else torch.cat(attended)

    def _in(self, layer: int, heads_per_group: int) -> list[_Places]:
        """Return the places in a layer's section; in its first layer, the slots grow by the tokens."""
        if not self._places or layer not in self._places[0].section.layers:
            self._places = [_Places(batch.slots.section(layer), batch, heads_per_group) for batch in self._batches]
        return self._places


class _Places:
    """Positions of a batch's new tokens in the slots of a section, which grow by these tokens."""

    def __init__(self, section: Section, batch: SlotTokens, heads_per_group: int) -> None:
        self.section = section
        self.counts, self.tokens = [*batch.counts], sum(batch.counts)
        self._slots, self._padded, self._heads = len(batch.counts), batch.padded, heads_per_group
        device, before = section.lengths.device, section.lengths
        self._each = torch.arange(self._slots, device=device)
        self._is_single = batch.padded == 1
        self._num_keys = section.capacity
        if self._is_single:
            self._slot_of, self._place_of = self._each, before
            section.lengths = before + 1
        else:
            # The slots have just begun with these tokens, so their room for the answer is empty.
            self._num_keys -= ROOM
            if section.fullest + batch.padded > self._num_keys:
                raise ValueError(
                    f"slots of {section.capacity} tokens that hold {section.fullest} have no room for "
                    f"{batch.padded} more"
                )
            counts = torch.tensor(batch.counts, device=device)
            firsts = counts.cumsum(dim=0) - counts
            self._slot_of = self._each.repeat_interleave(counts, output_size=self.tokens)
            self._offset_of = torch.arange(self.tokens, device=device) - firsts[self._slot_of]
            self._place_of = before[self._slot_of] + self._offset_of
            section.lengths = before + counts
        section.fullest += max(batch.counts)
        self.mask: Tensor | None = None
        if batch.padded > _MOST_PADDED:
            self.lengths: list[int] = section.lengths.tolist()
        else:
            # Padding queries see keys, too: softmax over a fully masked row is NaN.
            last = before[:, None] + torch.arange(batch.padded, device=device)
            hidden = torch.arange(self._num_keys, device=device) > last[..., None]
            mask = section.keys[0].new_zeros(hidden.shape).masked_fill_(hidden, -math.inf)
            rows = (self._slots, self._heads, *mask.shape[1:])
            self.mask = mask[:, None] if self._is_single else mask[:, None].expand(rows).flatten(1, 2)[:, None]

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the tokens' keys and values `[L, G, d]` into a layer, and return all to attend to, `[S, G, K, d]`."""
        index = layer - self.section.layers[0]
        tensors = self.section.keys[index], self.section.values[index]
        for tensor, new in zip(tensors, (keys, values), strict=True):
            tensor[self._slot_of, :, self._place_of] = new
        if self._num_keys == self.section.capacity:
            return tensors
        keys, values = (tensor[:, :, : self._num_keys] for tensor in tensors)
        return keys, values

    def padded(self, queries: Tensor) -> Tensor:
        """Return packed queries `[L, H, d]` as `[S, G, H / G * padded, d]`.

        The heads of a group have the same keys, so they become queries of one head, and keys are read once.
        """
        tokens, heads, width = queries.shape
        if self._is_single:
            return queries.reshape(tokens, heads // self._heads, self._heads, width)
        filled = queries.new_zeros(self._slots, self._padded, heads, width)
        filled[self._slot_of, self._offset_of] = queries
        grouped = filled.view(self._slots, self._padded, heads // self._heads, self._heads, width)
        return grouped.permute(0, 2, 3, 1, 4).flatten(2, 3)

    def unpadded(self, output: Tensor) -> Tensor:
        """Reverse `padded`: return the output `[S, G, H / G * padded, d]` as packed `[L, H * d]`."""
        if self._is_single:
            return output.flatten(1)
        slots, groups, _, width = output.shape
        apart = output.view(slots, groups, self._heads, self._padded, width).permute(0, 3, 1, 2, 4)
        return apart[self._slot_of, self._offset_of].flatten(1)


class CausalAttention:
    """Causal attention of one sequence's newest tokens to all of its tokens, without padding."""

    def __init__(self, implementation: str) -> None:
        self._implementation = implementation
        self._function: Any = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        # One float mask for all layers of a length: torch would convert a bool mask in every layer.
        self._masks: dict[tuple[int, int], Tensor | None] = {}

    def __call__(self, attention: nn.Module, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Return `[L, H * d]` for the newest L queries `[H, L, d]` and all keys and values `[G, P + L, d]`."""
        shape = (queries.shape[1], keys.shape[1])
        if shape not in self._masks:
            self._masks[shape] = _causal_mask(self._implementation, *shape, queries)
        mask, scaling = self._masks[shape], cast("float", attention.scaling)
        batch = queries.unsqueeze(0), keys.unsqueeze(0), values.unsqueeze(0)
        if mask is not None and self._implementation == "sdpa" and queries.device.type == "cpu":
            # Transformers repeats keys and values for their groups of queries, which masked CUDA kernels need. The CPU
            # kernel does not, and gives the same bits.
            grouped = functional.scaled_dot_product_attention(*batch, mask, scale=scaling, enable_gqa=True)
            return grouped.transpose(1, 2).reshape(queries.shape[1], -1)
        output, _ = self._function(attention, *batch, mask, scaling=scaling, dropout=0.0)
        return cast("Tensor", output.reshape(queries.shape[1], -1))


def _attend_together(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scaling: float, *, eager: bool
) -> Tensor:
    """Attend in several slots at once, so that the bits of one do not depend on how many there are.

    A CPU's threads share out the pairs of slot and head. A single pair, or a single query of each, cannot be shared
    out: then threads compute parts of it, cut by the number of pairs. So there are always two of both.

    Args:
        queries: `[S, G, L, d]`.
        keys: `[S, G, K, d]`.
        values: `[S, G, K, d]`.
        mask: Added to the scores.
        scaling: Multiplies the scores.
        eager: Compute as the eager attention of transformers. Flash attention takes no mask and gains nothing on few
            queries, so sdpa stands in for it.

    Returns:
        `[S, G, L, d]`.
    """
    slots, groups, length, _ = queries.shape
    padded = queries.device.type == "cpu" and (length == 1 or slots * groups == 1)
    if padded and length == 1:
        queries = functional.pad(queries, (0, 0, 0, 1))
    if padded and slots * groups == 1:
        queries, keys, values, mask = (tensor.expand(2, *tensor.shape[1:]) for tensor in (queries, keys, values, mask))
    if eager:
        scores = queries @ keys.transpose(-1, -2) * scaling + mask
        output = scores.softmax(dim=-1, dtype=torch.float32).to(queries.dtype) @ values
    else:
        output = functional.scaled_dot_product_attention(queries, keys, values, mask, scale=scaling)
    return output[:slots, :, :length] if padded else output


def _causal_mask(implementation: str, length: int, total: int, like: Tensor) -> Tensor | None:
    """Return the mask of the newest `length` of `total` tokens for an implementation; None if it needs none."""
    # Without a mask, flash attention is causal, and sdpa is causal only if nothing is cached.
    if length == 1 or "flash" in implementation or (implementation == "sdpa" and length == total):
        return None
    seen = torch.ones(length, total, dtype=torch.bool, device=like.device).tril(total - length)
    # As in transformers: its eager masks contain the smallest number, and sdpa converts False to minus infinity.
    unseen = torch.finfo(like.dtype).min if implementation == "eager" else -math.inf
    return like.new_zeros(length, total).masked_fill_(~seen, unseen)[None, None]
