"""Choosing the next token: the most likely one, or a draw from a random stream that belongs to one question."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from flashvid.engine.generation_config import GenerationConfig
from flashvid.engine.json_grammar import JsonAnswer


class TokenSampler:
    """The choices of one answer. All that changes in it is how far its random stream and its JSON have come."""

    def __init__(self, generation: GenerationConfig, key: str, json: JsonAnswer | None = None) -> None:
        """Start an answer's choices.

        Args:
            generation: Settings.
            key: Names the clip and the question: with the seed it determines the random stream, whatever else is
                answered before or beside it.
            json: What the answer must be; None leaves it free.
        """
        self._generation = generation
        self._json = json
        self._random = torch.Generator().manual_seed(stream_seed(generation.seed, key))

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow what was chosen: the JSON is whole."""
        return self._json is not None and self._json.is_complete

    def choose(self, logits: Tensor) -> int:
        """One token id, of logits `[V]` on any device.

        Raises:
            ConfigurationError: the JSON can't be continued.
        """
        token = self._choose(logits if self._json is None else self._json.masked(logits))
        if self._json is not None:
            self._json.append(token)
        return token

    def _choose(self, logits: Tensor) -> int:
        if self._generation.temperature == 0:
            return int(logits.argmax())
        # One uniform number a token, drawn on the CPU: the stream is the same on every device.
        share = torch.rand((), generator=self._random, dtype=torch.float64)
        probabilities, ids = self._candidates(logits)
        cumulative = probabilities.cumsum(dim=0)
        chosen = int(torch.searchsorted(cumulative, share * cumulative[-1], right=True))
        return int(ids[min(chosen, len(ids) - 1)])

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (float64, not adding up to 1) and ids of the tokens to draw from, the most likely first."""
        logits = logits.cpu().double()
        # From the largest down, so that no temperature is too small to divide by.
        scaled = (logits - logits.max()) / self._generation.temperature
        # Stable: of equally likely tokens the one with the lower id comes first.
        probabilities, ids = scaled.softmax(dim=0).sort(descending=True, stable=True)
        if self._generation.top_k is not None:
            probabilities, ids = probabilities[: self._generation.top_k], ids[: self._generation.top_k]
        # As few as reach the share asked for: those before which it is not reached. Always the first one.
        total_before = probabilities.cumsum(dim=0) - probabilities
        reached = total_before >= self._generation.top_p * probabilities.sum()
        # What has no probability, as a token that the JSON forbids, is never drawn, however the sums are rounded.
        count = int((~reached & (probabilities > 0)).sum())
        return probabilities[:count], ids[:count]


def stream_seed(seed: int, key: str) -> int:
    """Seed of the random stream that a key has: 63 bits of a hash, so that streams are independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big") >> 1
