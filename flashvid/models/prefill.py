"""The prefill of a prompt in two parts: the prefix once for all questions of a clip, then each question on top of it.

Without inner pruning the whole prefix is shared. With it, the question decides which visual tokens the layers behind
the pruning get, so these layers share only what stands before the first prunable token; of the rest, the states
before the pruning layer are kept. In exact arithmetic this is the published method (spec 6).
"""

from __future__ import annotations

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


def prefill_question(
    decoder: Decoder, shared: PrefilledPrefix, suffix: QuestionSuffix, pruning: InnerPruningConfig | None
) -> PrefilledPrompt:
    """Run one question on top of the prefix it shares, which is left as it was.

    Args:
        decoder: The one that ran the prefix.
        shared: The prefix.
        suffix: The question's own part; at least one token.
        pruning: As for the prefix.

    Raises:
        ConfigurationError: a question without a token.
    """
    if not suffix.ids:
        raise ConfigurationError("a prompt must have a token behind its video: the chat template adds none")
    prefix, num_own = shared.prefix, len(suffix.ids)
    length, split = len(prefix.embeddings) + num_own, _pruning_layer(decoder, pruning)
    cache = shared.cache.fork()
    hidden, query = decoder.forward(decoder.embed(suffix.ids), suffix.positions, cache, range(split))
    kept = torch.arange(length)
    visual = int(prefix.is_visual.sum()) * split
    if pruning is None or split == decoder.num_layers:
        return PrefilledPrompt(cache, decoder.logits(hidden[-1:])[0], kept, num_own * split, visual)
    assert query is not None  # noqa: S101 - there are tokens and layers
    attention = last_query_attention(query, cache[split - 1].keys, decoder.last_query_scaling(split - 1))
    is_prunable = torch.cat([prefix.is_prunable.cpu(), torch.zeros(num_own, dtype=torch.bool)])
    kept = kept_positions(attention.cpu(), is_prunable, pruning.llm_retention_ratio)
    # The layers behind hold what stands before the first prunable token; the rest of what is kept goes through now.
    first = cache[split].length
    now = kept[kept >= first]
    rest = torch.cat([shared.waiting, hidden])[(now - first).to(decoder.device)]
    positions = torch.cat([prefix.positions.cpu(), suffix.positions.cpu()], dim=1)[:, now]
    behind = range(split, decoder.num_layers)
    rest, _ = decoder.forward(rest, positions, cache, behind)
    token_layers = num_own * split + len(now) * len(behind)
    visual += int(prefix.is_visual.cpu()[kept[kept < len(prefix.embeddings)]].sum()) * len(behind)
    return PrefilledPrompt(cache, decoder.logits(rest[-1:])[0], kept, token_layers, visual)


def _pruning_layer(decoder: Decoder, pruning: InnerPruningConfig | None) -> int:
    """Layers that run on every token."""
    if pruning is None or not pruning.prunes(decoder.num_layers):
        return decoder.num_layers
    return pruning.pruning_layer
