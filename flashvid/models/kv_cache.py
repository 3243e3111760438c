"""Keys and values of one sequence: layers may differ in length, and a common beginning is shared until it grows."""

from __future__ import annotations

from typing import Self

from torch import Tensor

# Tokens a layer has room for beyond those it needs, so that a generated token does not move all before it.
_ROOM = 64


class KVCache:
    """The cache of one sequence in every layer of a decoder."""

    def __init__(self, num_layers: int) -> None:
        self._layers = [LayerCache() for _ in range(num_layers)]

    def __getitem__(self, layer: int) -> LayerCache:
        """One layer's keys and values."""
        return self._layers[layer]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in each layer."""
        return tuple(layer.length for layer in self._layers)

    def fork(self) -> Self:
        """A second sequence with the same beginning. Memory is shared until either grows, then copied by that one."""
        forked = type(self)(0)
        forked._layers = [layer.fork() for layer in self._layers]
        return forked


class LayerCache:
    """Keys and values of one sequence in one layer.

    Attributes:
        length: Tokens in it.
    """

    def __init__(self) -> None:
        self.length = 0
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._capacity = 0

    @property
    def keys(self) -> Tensor:
        """`[G, length, d]`, rotated, of G key-value heads; there must be any."""
        return self._views()[0]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[G, L, d]` each at the end; everything, `[G, length, d]` each, as views of the cache."""
        start, self.length = self.length, self.length + keys.shape[1]
        if self.length > self._capacity:
            self._grow(keys, values, start)
        assert self._buffers is not None  # noqa: S101 - for the type checker
        for buffer, new in zip(self._buffers, (keys, values), strict=True):
            buffer[:, start : self.length] = new
        return self._views()

    def fork(self) -> LayerCache:
        """The same tokens, without room: whichever of the two is appended to makes itself another buffer."""
        forked = LayerCache()
        forked.length, forked._buffers = self.length, self._buffers
        # Neither may write into what is now shared, though only this one could reach room behind its tokens.
        self._capacity = 0
        return forked

    def _grow(self, keys: Tensor, values: Tensor, filled: int) -> None:
        self._capacity = self.length + _ROOM
        grown = tuple(new.new_empty(new.shape[0], self._capacity, new.shape[2]) for new in (keys, values))
        if self._buffers is not None:
            for buffer, old in zip(grown, self._buffers, strict=True):
                buffer[:, :filled] = old[:, :filled]
        self._buffers = (grown[0], grown[1])

    def _views(self) -> tuple[Tensor, Tensor]:
        assert self._buffers is not None  # noqa: S101 - for the type checker
        keys, values = self._buffers
        return keys[:, : self.length], values[:, : self.length]
