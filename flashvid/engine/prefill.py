"""Prefill in two parts: the prefix once for all questions of a clip, then the questions on top of it, together.

Without inner pruning the whole prefix is shared. With it, the question decides which visual tokens the layers after the
pruning get, so these layers share only the tokens before the first prunable one; of the other tokens, the states before
the pruning layer are kept. In exact arithmetic this is the published method (docs/flashvid.md, section 6).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from flashvid.config import InnerPruningConfig
from flashvid.engine.decoder import Decoder, Deepstack
from flashvid.engine.decoder_attention import SlotTokens
from flashvid.engine.kv_cache import KVCache
from flashvid.engine.kv_slots import KVSlots
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.pruning import kept_positions, last_query_attention
from flashvid.errors import ConfigurationError

# Questions with the same length after rounding up to a multiple of this share tensors: few groups, little padding.
_PADDING = 32


@dataclass(frozen=True, eq=False)
class PrefilledPrefix:
    """A prefix that has been run as far as it is the same for every question.

    Attributes:
        prefix: The prefix.
        cache: In layers before the pruning the whole prefix, in later layers the tokens before the first prunable one.
        waiting: `[P - first prunable, D]`: states of the other tokens before the pruning layer.
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
        question: Index among the questions given.
        logits: `[V]`: logits of the first generated token.
        kept: Positions of the prompt that reached the last layer: ascending int64, on the CPU.
        token_layers: Tokens times layers that were run for this question alone.
        visual_token_layers: Visual tokens of the whole prompt times the layers that ran on them.
    """

    question: int
    logits: Tensor
    kept: Tensor
    token_layers: int
    visual_token_layers: int


@dataclass(frozen=True, eq=False)
class PrefilledPrompts:
    """Prompts in slots of the same tensors.

    Attributes:
        slots: The KV caches, without pruned tokens.
        prompts: The prompts, slot by slot.
    """

    slots: KVSlots
    prompts: tuple[PrefilledPrompt, ...]


def prefill_prefix(decoder: Decoder, prefix: SharedPrefix, pruning: InnerPruningConfig | None) -> PrefilledPrefix:
    """Run the part of a prompt that all questions share.

    Raises:
        ConfigurationError: Pruning begins before the last layer after which visual features are added.
    """
    num_tokens, split = len(prefix.embeddings), _pruning_layer(decoder, pruning)
    if pruning is not None:
        pruning.check_deepstack(len(prefix.deepstack))
    cache = KVCache(decoder.num_layers)
    hidden = prefix.embeddings.to(decoder.device, decoder.dtype)
    deepstack = Deepstack(prefix.deepstack, prefix.is_visual.to(decoder.device)) if prefix.deepstack else None
    hidden, _ = decoder.forward(hidden, prefix.positions, cache, range(split), deepstack)
    later = range(split, decoder.num_layers)
    prunable = prefix.is_prunable.nonzero().flatten()
    first = int(prunable[0]) if later and len(prunable) else num_tokens
    if later:
        decoder.forward(hidden[:first], prefix.positions[:, :first], cache, later)
    return PrefilledPrefix(prefix, cache, hidden[first:], num_tokens * split + first * len(later))


def prefill_questions(
    decoder: Decoder, shared: PrefilledPrefix, suffixes: Sequence[QuestionSuffix], pruning: InnerPruningConfig | None
) -> list[PrefilledPrompts]:
    """Run at most as many questions as a decode step has rows, on top of the prefix they share.

    Layers read their weights once for all questions. The result of each question is bit-identical whatever its batch.

    Args:
        decoder: The decoder that ran the prefix.
        shared: The prefix; not changed.
        suffixes: The questions' own parts, each of at least one token.
        pruning: As for the prefix.

    Returns:
        All questions, grouped by padded length.

    Raises:
        ConfigurationError: A question has no token.
    """
    if not all(suffix.ids for suffix in suffixes):
        raise ConfigurationError("a prompt must have a token after its video: the chat template adds none")
    prefix, split = shared.prefix, _pruning_layer(decoder, pruning)
    by_length: dict[int, list[int]] = {}
    for question, suffix in enumerate(suffixes):
        by_length.setdefault(padded_length(suffix), []).append(question)
    order = [question for members in by_length.values() for question in members]
    ordered = [suffixes[question] for question in order]
    batches = [
        SlotTokens(KVSlots(decoder.no_tokens), [len(suffixes[question].ids) for question in members], padded)
        for padded, members in by_length.items()
    ]
    for batch in batches:
        batch.slots.begin(range(split), shared.cache, len(batch.counts), batch.padded)
    hidden = decoder.embed([token for suffix in ordered for token in suffix.ids])
    positions = torch.cat([suffix.positions for suffix in ordered], dim=1)
    hidden, queries = decoder.forward_together(hidden, positions, batches, range(split))
    states = torch.split(hidden, [len(suffix.ids) for suffix in ordered])
    kept = [torch.arange(len(prefix.embeddings) + len(own)) for own in states]
    if pruning is not None and queries is not None and split < decoder.num_layers:
        kept, states = _prune(decoder, shared, ordered, batches, states, queries, pruning)
    later, is_visual = decoder.num_layers - split, prefix.is_visual.cpu()
    visual_layers = int(is_visual.sum()) * split
    logits = decoder.first_logits([own[-1] for own in states])
    prompts = (
        PrefilledPrompt(
            question,
            row,
            chosen,
            len(suffix.ids) * split + len(own) * later,
            visual_layers + (int(is_visual[chosen[chosen < len(is_visual)]].sum()) * later if later else 0),
        )
        for question, row, chosen, suffix, own in zip(order, logits, kept, ordered, states, strict=True)
    )
    return [PrefilledPrompts(batch.slots, tuple(islice(prompts, len(batch.counts)))) for batch in batches]


def padded_length(suffix: QuestionSuffix) -> int:
    """Return the number of queries that attention is padded to for a question."""
    return -(-len(suffix.ids) // _PADDING) * _PADDING


def _prune(
    decoder: Decoder,
    shared: PrefilledPrefix,
    suffixes: Sequence[QuestionSuffix],
    batches: Sequence[SlotTokens],
    states: Sequence[Tensor],
    queries: Tensor,
    pruning: InnerPruningConfig,
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Run the tokens that each question keeps through the remaining layers.

    Args:
        decoder: Runs them.
        shared: The prefix.
        suffixes: The questions, batch after batch.
        batches: Their slots, which get the remaining layers.
        states: For each question `[S, D]`: states before the pruning layer.
        queries: `[number of questions, H, d]`: query of the last token of each question, in the layer before.
        pruning: How many tokens to keep.

    Returns:
        For each question the positions of the prompt that are kept, and the states of those that are not shared.
    """
    prefix, split = shared.prefix, pruning.pruning_layer
    later = range(split, decoder.num_layers)
    scaling = decoder.last_query_scaling(split - 1)
    # The later layers already hold the tokens before the first prunable one.
    first = shared.cache[split].length
    kept, going, positions = [], [], []
    slots = [(batch.slots, slot) for batch in batches for slot in range(len(batch.counts))]
    for (own_slots, slot), suffix, own, query in zip(slots, suffixes, states, queries, strict=True):
        is_prunable = torch.cat([prefix.is_prunable.cpu(), torch.zeros(len(own), dtype=torch.bool)])
        attention = last_query_attention(query, own_slots.keys(split - 1, slot, len(is_prunable)), scaling)
        kept.append(kept_positions(attention.cpu(), is_prunable, pruning.llm_retention_ratio))
        now = kept[-1][kept[-1] >= first]
        going.append(torch.cat([shared.waiting, own])[(now - first).to(decoder.device)])
        positions.append(torch.cat([prefix.positions.cpu(), suffix.positions.cpu()], dim=1)[:, now])
    # Every question keeps as many tokens of the prefix, so padding still follows from a question's own length.
    more = len(going[0]) - len(states[0])
    widened = [SlotTokens(b.slots, [more + count for count in b.counts], more + b.padded) for b in batches]
    for batch in widened:
        batch.slots.begin(later, shared.cache, len(batch.counts), batch.padded)
    hidden, _ = decoder.forward_together(torch.cat(going), torch.cat(positions, dim=1), widened, later)
    return kept, torch.split(hidden, [len(own) for own in going])


def _pruning_layer(decoder: Decoder, pruning: InnerPruningConfig | None) -> int:
    """Return the number of layers that run on every token."""
    if pruning is None or not pruning.prunes(decoder.num_layers):
        return decoder.num_layers
    return pruning.pruning_layer
