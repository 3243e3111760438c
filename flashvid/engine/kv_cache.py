"""KV cache of one sequence during prefill: layers may differ in length, and sequences may share a beginning."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor


class KVCache:
    """KV cache of one sequence in every layer of a decoder."""

    def __init__(self, num_layers: int) -> None:
        self._layers = [LayerCache() for _ in range(num_layers)]

    def __getitem__(self, layer: int) -> LayerCache:
        """Return one layer's keys and values."""
        return self._layers[layer]

    def add(self, layer: LayerCache) -> None:
        """Append a layer."""
        self._layers.append(layer)

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the number of tokens in each layer."""
        return tuple(layer.length for layer in self._layers)

    def fork(self) -> Self:
        """Return a second sequence with the same tokens; both share memory until either grows."""
        forked = type(self)(0)
        forked._layers = [LayerCache(layer.tokens) for layer in self._layers]
        return forked


class LayerCache:
    """Keys and values of one sequence in one layer. Its tensors are replaced, never written to.

    Attributes:
        tokens: Rotated keys, and values, `[G, length, d]` each of G key-value heads; empty before the first token.
    """

    def __init__(self, tokens: tuple[Tensor, ...] = ()) -> None:
        self.tokens = tokens

    @property
    def length(self) -> int:
        """Return the number of tokens."""
        return self.tokens[0].shape[1] if self.tokens else 0

    @property
    def keys(self) -> Tensor:
        """Return the first of `tokens`."""
        return self.tokens[0]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, ...]:
        """Add `[G, L, d]` each at the end and return everything, `[G, length, d]` each."""
        if self.tokens:
            self.tokens = tuple(torch.cat(pair, dim=1) for pair in zip(self.tokens, (keys, values), strict=True))
        else:
            self.tokens = keys.contiguous(), values.contiguous()
        return self.tokens
