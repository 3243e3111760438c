"""Choice of the next token: the most likely one, or a draw from the random stream of a question."""

import hashlib

import torch
from torch import Tensor

from flashvid.engine.generation_config import GenerationConfig
from flashvid.engine.json_grammar import JsonAnswer


class TokenSampler:
    """Chooses the tokens of one answer. Its state is the position in its random stream and in its JSON."""

    def __init__(self, generation: GenerationConfig, key: str, json: JsonAnswer | None = None) -> None:
        """Start the random stream of an answer.

        Args:
            generation: The settings.
            key: Names the clip and the question; together with the seed it alone determines the random stream.
            json: Restricts the answer to JSON; None for free text.
        """
        self._generation = generation
        self._json = json
        self._random = torch.Generator().manual_seed(stream_seed(generation.seed, key))

    @property
    def is_complete(self) -> bool:
        """Return whether the JSON is complete, so that no token can follow."""
        return self._json is not None and self._json.is_complete

    def choose(self, logits: Tensor) -> int:
        """Return one token id for logits `[V]` on any device.

        Raises:
            ConfigurationError: The JSON cannot be continued.
        """
        token = self._choose(logits if self._json is None else self._json.masked(logits))
        if self._json is not None:
            self._json.append(token)
        return token

    def _choose(self, logits: Tensor) -> int:
        if self._generation.temperature == 0:
            return int(logits.argmax())
        # One uniform number per token, drawn on the CPU, so the stream is the same on every device.
        share = torch.rand((), generator=self._random, dtype=torch.float64)
        probabilities, ids = self._candidates(logits)
        cumulative = probabilities.cumsum(dim=0)
        chosen = int(torch.searchsorted(cumulative, share * cumulative[-1], right=True))
        return int(ids[min(chosen, len(ids) - 1)])

    def _candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities (float64, not normalised) and ids of the tokens to draw from, the most likely first."""
        logits = logits.cpu().double()
        # Relative to the largest logit, so that no temperature is too small to divide by.
        scaled = (logits - logits.max()) / self._generation.temperature
        # Stable: among equally likely tokens the lower id comes first.
        probabilities, ids = scaled.softmax(dim=0).sort(descending=True, stable=True)
        if self._generation.top_k is not None:
            probabilities, ids = probabilities[: self._generation.top_k], ids[: self._generation.top_k]
        # The fewest tokens that reach top_p: those before which it is not reached. The first is always among them.
        total_before = probabilities.cumsum(dim=0) - probabilities
        reached = total_before >= self._generation.top_p * probabilities.sum()
        # A token of probability 0, such as one that the JSON forbids, is never drawn, however sums are rounded.
        count = int((~reached & (probabilities > 0)).sum())
        return probabilities[:count], ids[:count]


def stream_seed(seed: int, key: str) -> int:
    """Return the seed of a key's random stream: 63 bits of a hash, so that streams are independent."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{key}".encode()).digest()[:8], "big") >> 1
