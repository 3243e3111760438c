"""Caches of answers that are decoded together: in every layer one tensor for all, which one attention call reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flashvid.models.kv_cache import KVCache

# Tokens by which slots are rounded up and grow. What attention computes may depend on a slot's size in its last bits,
# so that has to follow from the one answer in it: from its prompt's length, and from how many tokens it has generated.
_ROOM = 64


@dataclass(eq=False)
class _Extent:
    """How far the slots are filled in some layers.

    Attributes:
        newest: `[S]` int64: where each slot's newest token stands.
        mask: `[S, 1, 1, C]`: 0 for the tokens there are, minus infinity behind them.
    """

    newest: Tensor
    mask: Tensor


class KVSlots:
    """Caches of answers that began to be decoded together, a slot each; every step adds a token to all.

    A step costs the same number of operations for one slot as for sixteen. Slots are of equal size and masked behind
    their tokens; what is computed in one does not depend on the others.
    """

    def __init__(self, caches: Sequence[KVCache]) -> None:
        """Copy caches into slots.

        Args:
            caches: At least one, all of the same `size_of`; left as they are.

        Raises:
            ValueError: they differ in size.
        """
        sizes = {self.size_of(cache) for cache in caches}
        if len(sizes) != 1:
            raise ValueError(f"slots must be of one size, not {len(sizes)}")
        (size,) = sizes
        self._steps = 0
        self._starts = [cache.lengths for cache in caches]
        self._extents: dict[tuple[int, ...], _Extent] = {}
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        for index, capacity in enumerate(size):
            keys, values = zip(*(cache[index].tokens for cache in caches), strict=True)
            self._keys.append(_stacked(keys, capacity))
            self._values.append(_stacked(values, capacity))
            if (lengths := self._starts_in(index)) not in self._extents:
                self._extents[lengths] = _extent(lengths, self._keys[-1])
        self._every = torch.arange(len(caches), device=self._keys[0].device)

    @staticmethod
    def size_of(cache: KVCache) -> tuple[int, ...]:
        """Tokens that a slot for this cache has room for, by layer."""
        return tuple(-(-length // _ROOM) * _ROOM + _ROOM for length in cache.lengths)

    def __len__(self) -> int:
        """Slots."""
        return len(self._starts)

    @property
    def lengths(self) -> list[tuple[int, ...]]:
        """Of each slot, the tokens in each layer."""
        return [tuple(length + self._steps for length in starts) for starts in self._starts]

    def advance(self) -> None:
        """Make a place for one more token of each slot in every layer."""
        if self._steps % _ROOM == 0 and self._steps > 0:
            self._grow()
        self._steps += 1
        for extent in self._extents.values():
            extent.newest += 1
            extent.mask[self._every, 0, 0, extent.newest] = 0

    def put(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Put each slot's newest token into a layer.

        Args:
            layer: Which.
            keys: `[S, G, d]`, rotated.
            values: `[S, G, d]`.

        Returns:
            All keys and all values `[S, G, C, d]`, and what to add to scores: `[S, 1, 1, C]`.
        """
        extent = self._extents[self._starts_in(layer)]
        for slots, new in ((self._keys[layer], keys), (self._values[layer], values)):
            slots[self._every, :, extent.newest] = new
        return self._keys[layer], self._values[layer], extent.mask

    def keep(self, slots: Sequence[int]) -> None:
        """Leave out all but these slots."""
        extents = {layer: self._extents[self._starts_in(layer)] for layer in range(len(self._keys))}
        chosen = torch.tensor(slots, device=self._keys[0].device)
        self._every = self._every[: len(slots)]
        self._starts = [self._starts[slot] for slot in slots]
        self._keys = [keys[chosen] for keys in self._keys]
        self._values = [values[chosen] for values in self._values]
        self._extents = {
            self._starts_in(layer): _Extent(extent.newest[chosen], extent.mask[chosen])
            for layer, extent in extents.items()
        }

    def _starts_in(self, index: int) -> tuple[int, ...]:
        """Tokens that each slot began with in a layer; layers that agree in that share an extent."""
        return tuple(starts[index] for starts in self._starts)

    def _grow(self) -> None:
        for index in range(len(self._keys)):
            self._keys[index] = _with_room(self._keys[index])
            self._values[index] = _with_room(self._values[index])
        for extent in self._extents.values():
            extent.mask = functional.pad(extent.mask, (0, _ROOM), value=-torch.inf)


def _stacked(parts: Sequence[Tensor], capacity: int) -> Tensor:
    """Tokens `[G, length, d]` of several sequences as `[S, G, capacity, d]`."""
    groups, _, width = parts[0].shape
    # Zeros, since what stands behind the tokens is masked, and not a number times nothing is not a number.
    slots = parts[0].new_zeros(len(parts), groups, capacity, width)
    for slot, part in zip(slots, parts, strict=True):
        slot[:, : part.shape[1]] = part
    return slots


def _with_room(slots: Tensor) -> Tensor:
    return functional.pad(slots, (0, 0, 0, _ROOM))


def _extent(lengths: Sequence[int], slots: Tensor) -> _Extent:
    ends = torch.tensor(lengths, device=slots.device)
    empty = torch.arange(slots.shape[2], device=slots.device) >= ends[:, None]
    mask = slots.new_zeros(empty.shape).masked_fill_(empty, -torch.inf)
    return _Extent(ends - 1, mask[:, None, None])
