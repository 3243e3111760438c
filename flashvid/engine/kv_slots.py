"""KV caches of answers that decode together: one tensor per layer for all of them, read by one attention call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flashvid.engine.kv_cache import KVCache, LayerCache

# Slots are rounded up to a multiple of this many tokens, and begin with as much room for the answer. The last bits of
# attention may depend on a slot's size, so the size must follow from the slot's own answer: from the length of its
# prompt and the number of tokens generated.
ROOM = 64
# Tokens by which a full slot grows: many, since full slots have to be separated from the others.
_GROWTH = 256


def slot_size(tokens: int) -> int:
    """Return the tokens that a slot has room for if it begins with `tokens`, until it grows."""
    return -(-tokens // ROOM) * ROOM + ROOM


def grown_size(tokens: int, whole: int) -> int:
    """Return the tokens that a slot has room for when it has grown from `tokens` to `whole` tokens."""
    size = slot_size(tokens)
    return size + -(-max(0, whole - size) // _GROWTH) * _GROWTH


@dataclass(eq=False)
class Section:
    """Consecutive layers in which a slot holds the same tokens.

    Attributes:
        layers: The layers.
        keys: For each layer `[S, G, C, d]`, rotated.
        values: For each layer `[S, G, C, d]`.
        lengths: `[S]` int64: tokens in each slot.
        fullest: Upper bound of `lengths`, known without asking the device.
    """

    layers: range
    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor
    fullest: int

    @property
    def capacity(self) -> int:
        """Return the tokens that a slot has room for."""
        return self.keys[0].shape[2]

    @property
    def tensors(self) -> list[list[Tensor]]:
        """Return keys and values."""
        return [self.keys, self.values]


class KVSlots:
    """KV caches of several answers in slots of equal size.

    What is computed in a slot does not depend on its index, nor on the number or the contents of the other slots.
    """

    def __init__(self, like: Tensor) -> None:
        """Start without slots; `begin` makes them.

        Args:
            like: `[G, 0, d]`: keys or values of zero tokens.
        """
        self._like = like
        self._sections: list[Section] = []
        # Slots that have left, whose memory is not yet freed.
        self._spacious = 0

    def begin(self, layers: range, cache: KVCache, slots: int, tokens: int) -> None:
        """Copy the cache of a sequence in some layers into every slot.

        Args:
            layers: The layers that follow those begun so far.
            cache: The sequence's cache; not changed. It may be empty.
            slots: Number of slots.
            tokens: Most tokens about to be added; the slots have room for some more.
        """
        length = cache[layers[0]].length
        room = slot_size(length + tokens) - length
        begun: tuple[list[Tensor], list[Tensor]] = ([], [])
        for layer in layers:
            for tensors, part in zip(begun, cache[layer].tokens or (self._like, self._like), strict=True):
                # Zero-fill the padding. It is masked, but NaN * 0 is still NaN.
                tensors.append(functional.pad(part, (0, 0, 0, room)).repeat(slots, 1, 1, 1))
        lengths = torch.full((slots,), length, device=self._like.device)
        self._sections.append(Section(layers, *begun, lengths, length))

    def __len__(self) -> int:
        """Return the number of slots."""
        return len(self._sections[0].lengths)

    @property
    def size(self) -> tuple[tuple[range, int], ...]:
        """Return the tokens that a slot has room for, by layers."""
        return tuple((section.layers, section.capacity) for section in self._sections)

    @property
    def lengths(self) -> list[tuple[int, ...]]:
        """Return for each slot the number of tokens in each layer."""
        by_section = [section.lengths.tolist() for section in self._sections]
        repeats = [len(section.layers) for section in self._sections]
        return [
            tuple(length for length, count in zip(own, repeats, strict=True) for _ in range(count))
            for own in zip(*by_section, strict=True)
        ]

    def section(self, layer: int) -> Section:
        """Return the section that contains a layer."""
        return next(section for section in self._sections if layer in section.layers)

    def cache(self, slot: int) -> KVCache:
        """Return a slot's tokens as a cache that shares their memory; valid until the slots change."""
        cache = KVCache(0)
        for section in self._sections:
            length = int(section.lengths[slot])
            for keys, values in zip(section.keys, section.values, strict=True):
                cache.add(LayerCache((keys[slot, :, :length], values[slot, :, :length])))
        return cache

    def keys(self, layer: int, slot: int, length: int) -> Tensor:
        """Return the first keys of a slot in a layer: `[G, length, d]`."""
        section = self.section(layer)
        return section.keys[layer - section.layers[0]][slot, :, :length]

    def leave(self, slot: int) -> None:
        """Remove a slot; the last one takes its place. Memory is freed for a quarter of the slots at a time."""
        last = len(self) - 1
        self._spacious += 1
        is_compact = 4 * last < 3 * (last + self._spacious)
        for section in self._sections:
            for layers in section.tensors:
                for index, tensor in enumerate(layers):
                    if slot != last:
                        tensor[slot] = tensor[last]
                    layers[index] = tensor[:last].clone() if is_compact else tensor[:last]
            kept = section.lengths.clone()
            kept[slot] = kept[last]
            section.lengths = kept[:last]
        if is_compact:
            self._spacious = 0

    def join(self, other: KVSlots) -> None:
        """Append the slots of another object.

        Args:
            other: Slots of the same `size`; must not be used afterwards.

        Raises:
            ValueError: The sizes differ.
        """
        if other.size != self.size:
            raise ValueError(f"slots that join must have one size, not {self.size} and {other.size}")
        for section, more in zip(self._sections, other._sections, strict=True):
            for layers, added in zip(section.tensors, more.tensors, strict=True):
                for index in range(len(layers)):
                    layers[index] = torch.cat([layers[index], added[index]])
            section.lengths = torch.cat([section.lengths, more.lengths])
            section.fullest = max(section.fullest, more.fullest)
        self._spacious = 0

    def full(self) -> dict[tuple[int, ...], list[int]]:
        """Return the slots without room for another token in some layer, by the numbers of their full sections."""
        sections: dict[int, list[int]] = {}
        for number, section in enumerate(self._sections):
            # In most steps no slot is full; then the device is not asked.
            if section.fullest >= section.capacity:
                lengths = section.lengths.tolist()
                section.fullest = max(lengths)
                for slot, length in enumerate(lengths):
                    if length >= section.capacity:
                        sections.setdefault(slot, []).append(number)
        found: dict[tuple[int, ...], list[int]] = {}
        for slot, full in sorted(sections.items()):
            found.setdefault(tuple(full), []).append(slot)
        return found

    def take_grown(self, full: Mapping[tuple[int, ...], Sequence[int]]) -> list[KVSlots]:
        """Move full slots, as `full` returned them, into slots of their own with more room in the full layers."""
        taken = [self._grown(slots, sections) for sections, slots in full.items()]
        for slot in sorted((slot for slots in full.values() for slot in slots), reverse=True):
            self.leave(slot)
        return taken

    def _grown(self, slots: Sequence[int], sections: Sequence[int]) -> KVSlots:
        grown = KVSlots(self._like)
        for number, section in enumerate(self._sections):
            chosen = torch.tensor(slots, device=section.lengths.device)
            lengths = section.lengths[chosen]
            more = _GROWTH if number in sections else 0
            keys, values = (
                [functional.pad(tensor[chosen], (0, 0, 0, more)) for tensor in layers] for layers in section.tensors
            )
            grown._sections.append(Section(section.layers, keys, values, lengths, section.fullest))
        return grown
