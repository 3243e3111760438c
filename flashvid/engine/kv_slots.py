"""Caches of answers that are computed together: in every layer one tensor for all, which one attention call reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flashvid.engine.kv_cache import KVCache, LayerCache

# Tokens by which slots are rounded up, and which are left for the answer at first. What attention computes may depend
# on a slot's size in its last bits, so that has to follow from the one answer in it: from its prompt's length, and from
# how many tokens it has generated.
ROOM = 64
# By so many slots grow, each when it is full: seldom, since those that are not have to be told apart from it.
_GROWTH = 256


def slot_size(tokens: int) -> int:
    """What a slot that begins with so many tokens has room for, until it grows."""
    return -(-tokens // ROOM) * ROOM + ROOM


def grown_size(tokens: int, whole: int) -> int:
    """And what it comes to have room for, until `whole` tokens are in it."""
    size = slot_size(tokens)
    return size + -(-max(0, whole - size) // _GROWTH) * _GROWTH


@dataclass(eq=False)
class Section:
    """Neighbouring layers in which a slot holds the same tokens.

    Attributes:
        layers: Which.
        keys: Of each layer `[S, G, C, d]`, rotated.
        values: Likewise.
        lengths: `[S]` int64: tokens in each slot.
        fullest: At least the largest of them.
    """

    layers: range
    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor
    fullest: int

    @property
    def capacity(self) -> int:
        """Tokens that a slot has room for."""
        return self.keys[0].shape[2]

    @property
    def tensors(self) -> list[list[Tensor]]:
        """Keys and values."""
        return [self.keys, self.values]


class KVSlots:
    """Caches of several answers, a slot each, of equal size.

    What is computed in a slot depends neither on how many there are, nor on what is in them, nor on which it is.
    """

    def __init__(self, like: Tensor) -> None:
        """No slots yet: `begin` makes them.

        Args:
            like: `[G, 0, d]`: no token's keys or values.
        """
        self._like = like
        self._sections: list[Section] = []
        # Slots that have left and whose memory is still ours.
        self._spacious = 0

    def begin(self, layers: range, cache: KVCache, slots: int, tokens: int) -> None:
        """Copy what some layers hold of a sequence into every slot.

        Args:
            layers: The next ones: those behind the layers that have begun already.
            cache: Of the sequence; left as it is. It may be empty.
            slots: How many.
            tokens: That are about to be added, at most; there is room for some more.
        """
        length = cache[layers[0]].length
        room = slot_size(length + tokens) - length
        begun: tuple[list[Tensor], list[Tensor]] = ([], [])
        for layer in layers:
            for tensors, part in zip(begun, cache[layer].tokens or (self._like, self._like), strict=True):
                # Zeros behind the tokens: what stands there is masked, and not a number times nothing is not a number.
                tensors.append(functional.pad(part, (0, 0, 0, room)).repeat(slots, 1, 1, 1))
        lengths = torch.full((slots,), length, device=self._like.device)
        self._sections.append(Section(layers, *begun, lengths, length))

    def __len__(self) -> int:
        """Slots."""
        return len(self._sections[0].lengths)

    @property
    def size(self) -> tuple[tuple[range, int], ...]:
        """Tokens that a slot has room for, by layers."""
        return tuple((section.layers, section.capacity) for section in self._sections)

    @property
    def lengths(self) -> list[tuple[int, ...]]:
        """Of each slot, the tokens in each layer."""
        by_section = [section.lengths.tolist() for section in self._sections]
        repeats = [len(section.layers) for section in self._sections]
        return [
            tuple(length for length, count in zip(own, repeats, strict=True) for _ in range(count))
            for own in zip(*by_section, strict=True)
        ]

    def section(self, layer: int) -> Section:
        """The one with that layer."""
        return next(section for section in self._sections if layer in section.layers)

    def cache(self, slot: int) -> KVCache:
        """A slot's tokens as a cache that shares their memory: for as long as nothing happens to the slots."""
        cache = KVCache(0)
        for section in self._sections:
            length = int(section.lengths[slot])
            for keys, values in zip(section.keys, section.values, strict=True):
                cache.add(LayerCache((keys[slot, :, :length], values[slot, :, :length])))
        return cache

    def keys(self, layer: int, slot: int, length: int) -> Tensor:
        """The first keys of a slot in a layer: `[G, length, d]`."""
        section = self.section(layer)
        return section.keys[layer - section.layers[0]][slot, :, :length]

    def leave(self, slot: int) -> None:
        """Leave one out; the last one takes its place. Memory is given back for a quarter of the slots at a time."""
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
        """Take over the slots of another, behind one's own.

        Args:
            other: Of the same `size`; not to be used any more.

        Raises:
            ValueError: it is of another.
        """
        if other.size != self.size:
            raise ValueError("slots that join must be of one size")
        for section, more in zip(self._sections, other._sections, strict=True):
            for layers, added in zip(section.tensors, more.tensors, strict=True):
                for index in range(len(layers)):
                    layers[index] = torch.cat([layers[index], added[index]])
            section.lengths = torch.cat([section.lengths, more.lengths])
            section.fullest = max(section.fullest, more.fullest)
        self._spacious = 0

    def full(self) -> dict[tuple[int, ...], list[int]]:
        """The slots without room for another token in some layer, by the numbers of the sections that have none."""
        sections: dict[int, list[int]] = {}
        for number, section in enumerate(self._sections):
            # Most steps nobody is, and then no device is asked.
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
        """Take slots out into slots of their own, with more room in the layers that have none; `full` as it comes."""
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
