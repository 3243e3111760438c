"""Keys and values of one sequence while it is prefilled: layers may differ in length, and a beginning may be shared."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class KVCache:
    """The cache of one sequence in every layer of a decoder."""

    def __init__(self, num_layers: int) -> None:
        self._layers = [LayerCache() for _ in range(num_layers)]

    def __getitem__(self, layer: int) -> LayerCache:
        """One layer's keys and values."""
        return self._layers[layer]

    def add(self, layer: LayerCache) -> None:
        """Another layer behind the others."""
        self._layers.append(layer)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Tokens in each layer."""
        return tuple(layer.length for layer in self._layers)

    def fork(self) -> Self:
        """A second sequence with the same beginning, whose memory is shared until either grows."""
        forked = type(self)(0)
        forked._layers = [layer.fork() for layer in self._layers]
        return forked


class LayerCache:
    """Keys and values of one sequence in one layer. Tensors in it are replaced and never written to."""

    def __init__(self, tokens: tuple[Tensor, Tensor] | None = None) -> None:
        self._tokens = tokens

    @property
    def length(self) -> int:
        """Tokens in it."""
        return 0 if self._tokens is None else self._tokens[0].shape[1]

    @property
    def tokens(self) -> tuple[Tensor, Tensor]:
        """Keys, rotated, and values, `[G, length, d]` each of G key-value heads; there must be any."""
        assert self._tokens is not None  # noqa: S101 - for the type checker
        return self._tokens

    @property
    def keys(self) -> Tensor:
        """The first of `tokens`."""
        return self.tokens[0]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add `[G, L, d]` each at the end; everything, `[G, length, d]` each."""
        if self._tokens is None:
            self._tokens = (keys.contiguous(), values.contiguous())
        else:
            self._tokens = (torch.cat([self._tokens[0], keys], dim=1), torch.cat([self._tokens[1], values], dim=1))
        return self._tokens

    def fork(self) -> LayerCache:
        """The same tokens."""
        return LayerCache(self._tokens)
