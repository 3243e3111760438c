"""The prefill of prompts in two parts: the prefix once for all questions of a clip, then these on top of it, together.

Without inner pruning the whole prefix is shared. With it, the question decides which visual tokens the layers behind
the pruning get, so these layers share only what stands before the first prunable token; of the rest, the states
before the pruning layer are kept. In exact arithmetic this is the published method (spec 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flashvid.config import InnerPruningConfig
from flashvid.errors import ConfigurationError
from flashvid.models.decoder import Decoder, Deepstack
from flashvid.models.kv_cache import KVCache
from flashvid.models.lm_input import QuestionSuffix, SharedPrefix
from flashvid.pruning import kept_positions, last_query_attention


@dataclass(frozen=True, eq=False)
class PrefilledPrefix:
    """A prefix that has been run as far as it is the same for every question.

    Attributes:
        prefix: What was run.
        cache: In layers before the pruning the whole prefix, behind it the tokens before the first prunable one.
        waiting: `[P - first prunable, D]`: the other tokens' states before the pruning layer.
        token_layers: Tokens times layers that were run.
    """

    prefix: SharedPrefix
    cache: KVCache
    waiting: Tensor
    token_layers: int


@dataclass(frozen=True, eq=False)
class PrefilledPrompt:
    """A whole prompt that has been run.

    Attributes:
        cache: The prompt, without what was pruned; the question's own.
        logits: `[V]`: of the first generated token.
        kept: Positions of the prompt that reached the last layer: ascending int64, on the CPU.
        token_layers: Tokens times layers that were run for this question alone.
        visual_token_layers: Visual tokens of the whole prompt times the layers that had them.
    """

    cache: KVCache
    logits: Tensor
    kept: Tensor
    token_layers: int
    visual_token_layers: int


def prefill_prefix(decoder: Decoder, prefix: SharedPrefix, pruning: InnerPruningConfig | None) -> PrefilledPrefix:
    """Run what all questions share.

    Raises:
        ConfigurationError: pruning before the last layer that visual features are added behind.
    """
    num_tokens, split = len(prefix.embeddings), _pruning_layer(decoder, pruning)
    if pruning is not None:
        pruning.check_deepstack(len(prefix.deepstack))
    prunable = prefix.is_prunable.nonzero().flatten()
    first = int(prunable[0]) if len(prunable) else num_tokens
    cache = KVCache(decoder.num_layers)
    hidden = prefix.embeddings.to(decoder.device, decoder.dtype)
    deepstack = Deepstack(prefix.deepstack, prefix.is_visual.to(decoder.device)) if prefix.deepstack else None
    hidden, _ = decoder.forward(hidden, prefix.positions, cache, range(split), deepstack)
    if split == decoder.num_layers:
        return PrefilledPrefix(prefix, cache, hidden[num_tokens:], num_tokens * split)
    behind = range(split, decoder.num_layers)
    decoder.forward(hidden[:first], prefix.positions[:, :first], cache, behind)
    return PrefilledPrefix(prefix, cache, hidden[first:], num_tokens * split + first * len(behind))


def prefill_questions(
    decoder: Decoder, shared: PrefilledPrefix, suffixes: Sequence[QuestionSuffix], pruning: InnerPruningConfig | None
) -> list[PrefilledPrompt]:
    """Run up to `DECODE_ROWS` questions on top of the prefix they share, which is left as it was.

    Layers read their weights for all of them together, and what comes out for one is the same bits in any company.

    Args:
        decoder: The one that ran the prefix.
        shared: The prefix.
        suffixes: The questions' own parts; each at least one token.
        pruning: As for the prefix.

    Raises:
        ConfigurationError: a question without a token.
    """
    if not all(suffix.ids for suffix in suffixes):
        raise ConfigurationError("a prompt must have a token behind its video: the chat template adds none")
    split = _pruning_layer(decoder, pruning)
    lengths = [len(suffix.ids) for suffix in suffixes]
    caches = [shared.cache.fork() for _ in suffixes]
    hidden = decoder.embed([token for suffix in suffixes for token in suffix.ids])
    positions = torch.cat([suffix.positions for suffix in suffixes], dim=1)
    hidden, queries = decoder.forward_together(hidden, positions, [*zip(caches, lengths, strict=True)], range(split))
    states = torch.split(hidden, lengths)
    if pruning is None or split == decoder.num_layers:
        length, visual = len(shared.prefix.embeddings), int(shared.prefix.is_visual.sum()) * split
        logits = decoder.first_logits([own[-1] for own in states])
        return [
            PrefilledPrompt(cache, row, torch.arange(length + own), own * split, visual)
            for cache, row, own in zip(caches, logits, lengths, strict=True)
        ]
    assert queries is not None  # noqa: S101 - there are tokens and layers
    return _behind(decoder, shared, suffixes, caches, states, queries, pruning)


def _behind(
    decoder: Decoder,
    shared: PrefilledPrefix,
    suffixes: Sequence[QuestionSuffix],
    caches: Sequence[KVCache],
    states: Sequence[Tensor],
    queries: Tensor,
    pruning: InnerPruningConfig,
) -> list[PrefilledPrompt]:
    """Through the layers behind the pruning: of every question its own choice of tokens.

    Args:
        decoder: Runs them.
        shared: The prefix.
        suffixes: The questions.
        caches: Theirs.
        states: Of each `[S, D]`, before the pruning layer.
        queries: `[number of questions, H, d]`: of each its last token's in the layer before.
        pruning: What is kept.
    """
    prefix, split = shared.prefix, pruning.pruning_layer
    behind, is_visual = range(split, decoder.num_layers), prefix.is_visual.cpu()
    # The layers behind hold what stands before the first prunable token; the rest of what is kept goes through now.
    first = shared.cache[split].length
    kept, going, positions = [], [], []
    for suffix, cache, own, query in zip(suffixes, caches, states, queries, strict=True):
        attention = last_query_attention(query, cache[split - 1].keys, decoder.last_query_scaling(split - 1))
        is_prunable = torch.cat([prefix.is_prunable.cpu(), torch.zeros(len(own), dtype=torch.bool)])
        kept.append(kept_positions(attention.cpu(), is_prunable, pruning.llm_retention_ratio))
        now = kept[-1][kept[-1] >= first]
        going.append(torch.cat([shared.waiting, own])[(now - first).to(decoder.device)])
        positions.append(torch.cat([prefix.positions.cpu(), suffix.positions.cpu()], dim=1)[:, now])
    lengths = [len(one) for one in going]
    hidden, _ = decoder.forward_together(
        torch.cat(going), torch.cat(positions, dim=1), [*zip(caches, lengths, strict=True)], behind
    )
    logits = decoder.first_logits([own[-1] for own in torch.split(hidden, lengths)])
    return [
        PrefilledPrompt(
            cache,
            row,
            chosen,
            len(suffix.ids) * split + length * len(behind),
            int(is_visual.sum()) * split + int(is_visual[chosen[chosen < len(is_visual)]].sum()) * len(behind),
        )
        for suffix, cache, row, chosen, length in zip(suffixes, caches, logits, kept, lengths, strict=True)
    ]


def _pruning_layer(decoder: Decoder, pruning: InnerPruningConfig | None) -> int:
    """Layers that run on every token."""
    if pruning is None or not pruning.prunes(decoder.num_layers):
        return decoder.num_layers
    return pruning.pruning_layer
