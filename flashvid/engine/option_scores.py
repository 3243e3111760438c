"""How likely given continuations of a prompt are, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flashvid.engine.decoder import Decoder
from flashvid.engine.kv_cache import KVCache
from flashvid.engine.lm_input import QuestionSuffix


def score_options(
    decoder: Decoder, suffix: QuestionSuffix, options: Sequence[tuple[int, ...]], cache: KVCache, first: Tensor
) -> tuple[tuple[float, ...], ...]:
    """Log-likelihoods of each option's tokens, given the prompt and those before; one option by itself.

    Args:
        decoder: The one that ran the prompt.
        suffix: The prompt's end.
        options: Token ids, at least one each.
        cache: The prompt's, left as it is.
        first: `[V]`: the prompt's logits.
    """
    return tuple(_score(decoder, suffix, cache.fork(), first, option) for option in options)


def _score(
    decoder: Decoder, suffix: QuestionSuffix, cache: KVCache, first: Tensor, option: tuple[int, ...]
) -> tuple[float, ...]:
    positions = torch.arange(suffix.next_position, suffix.next_position + len(option) - 1)
    hidden = decoder.embed(option[:-1])
    hidden, _ = decoder.forward(hidden, positions.unsqueeze(0), cache, range(decoder.num_layers))
    logits = torch.cat([first.unsqueeze(0), decoder.logits(hidden)])
    chosen = torch.tensor(option, device=logits.device).unsqueeze(1)
    return tuple(logits.double().log_softmax(dim=-1).gather(1, chosen).flatten().tolist())
