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
from flashvid.engine.decoder import Decoder, Deepstack
from flashvid.engine.decoder_attention import SlotTokens
from flashvid.engine.kv_cache import KVCache
from flashvid.engine.kv_slots import KVSlots
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.pruning import kept_positions, last_query_attention
from flashvid.errors import ConfigurationError

# Questions whose lengths are rounded up to the same multiple share tensors: few different ones, little filling.
_PADDING = 32


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
        question: Which one of those given.
        logits: `[V]`: of the first generated token.
        kept: Positions of the prompt that reached the last layer: ascending int64, on the CPU.
        token_layers: Tokens times layers that were run for this question alone.
        visual_token_layers: Visual tokens of the whole prompt times the layers that had them.
    """

    question: int
    logits: Tensor
    kept: Tensor
    token_layers: int
    visual_token_layers: int


@dataclass(frozen=True, eq=False)
class PrefilledPrompts:
    """Prompts that are in the slots of the same tensors.

    Attributes:
        slots: Each prompt without what was pruned.
        prompts: Slot by slot.
    """

    slots: KVSlots
    prompts: tuple[PrefilledPrompt, ...]


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
) -> list[PrefilledPrompts]:
    """Run as many questions as a decoding step has rows on top of the prefix they share, which is left as it was.

    Layers read their weights for all of them together, and what comes out for one is the same bits in any company.

    Args:
        decoder: The one that ran the prefix.
        shared: The prefix.
        suffixes: The questions' own parts; each at least one token.
        pruning: As for the prefix.

    Returns:
        All questions, those of about the same length together.

    Raises:
        ConfigurationError: a question without a token.
    """
    if not all(suffix.ids for suffix in suffixes):
        raise ConfigurationError("a prompt must have a token behind its video: the chat template adds none")
    split = _pruning_layer(decoder, pruning)
    batches = []
    for padded, members in _by_length(suffixes).items():
        slots = KVSlots(decoder.no_tokens)
        slots.begin(range(split), shared.cache, len(members), padded)
        batches.append(_Questions(slots, members, [len(suffixes[member].ids) for member in members], padded))
    order = [member for batch in batches for member in batch.members]
    hidden = decoder.embed([token for member in order for token in suffixes[member].ids])
    positions = torch.cat([suffixes[member].positions for member in order], dim=1)
    hidden, queries = decoder.forward_together(hidden, positions, [batch.tokens for batch in batches], range(split))
    states = torch.split(hidden, [len(suffixes[member].ids) for member in order])
    if pruning is None or split == decoder.num_layers:
        length, visual = len(shared.prefix.embeddings), int(shared.prefix.is_visual.sum()) * split
        logits = decoder.first_logits([own[-1] for own in states])
        found = [
            PrefilledPrompt(member, row, torch.arange(length + len(own)), len(own) * split, visual)
            for member, row, own in zip(order, logits, states, strict=True)
        ]
    else:
        assert queries is not None  # noqa: S101 - there are tokens and layers
        found = _behind(decoder, shared, suffixes, batches, states, queries, pruning)
    prompts = iter(found)
    return [PrefilledPrompts(batch.slots, tuple(next(prompts) for _ in batch.members)) for batch in batches]


@dataclass(frozen=True, eq=False)
class _Questions:
    """Questions in slots of the same tensors: which they are, how many tokens they have, what these are padded to."""

    slots: KVSlots
    members: list[int]
    counts: list[int]
    padded: int

    @property
    def tokens(self) -> SlotTokens:
        """What is added to the slots."""
        return SlotTokens(self.slots, self.counts, self.padded)


def padded_length(suffix: QuestionSuffix) -> int:
    """Queries that attention has for a question."""
    return -(-len(suffix.ids) // _PADDING) * _PADDING


def _by_length(suffixes: Sequence[QuestionSuffix]) -> dict[int, list[int]]:
    """Questions by what their lengths are padded to."""
    found: dict[int, list[int]] = {}
    for member, suffix in enumerate(suffixes):
        found.setdefault(padded_length(suffix), []).append(member)
    return found


def _behind(
    decoder: Decoder,
    shared: PrefilledPrefix,
    suffixes: Sequence[QuestionSuffix],
    batches: Sequence[_Questions],
    states: Sequence[Tensor],
    queries: Tensor,
    pruning: InnerPruningConfig,
) -> list[PrefilledPrompt]:
    """Through the layers behind the pruning: of every question its own choice of tokens.

    Args:
        decoder: Runs them.
        shared: The prefix.
        suffixes: The questions.
        batches: Their slots, which get the layers behind.
        states: Of each `[S, D]`, before the pruning layer; batch by batch, as all that follows.
        queries: `[number of questions, H, d]`: of each its last token's in the layer before.
        pruning: What is kept.
    """
    prefix, split = shared.prefix, pruning.pruning_layer
    behind, is_visual = range(split, decoder.num_layers), prefix.is_visual.cpu()
    scaling = decoder.last_query_scaling(split - 1)
    # The layers behind hold what stands before the first prunable token; the rest of what is kept goes through now.
    first = shared.cache[split].length
    kept, going, positions = [], [], []
    places = [(batch, slot, member) for batch in batches for slot, member in enumerate(batch.members)]
    for (batch, slot, member), own, query in zip(places, states, queries, strict=True):
        is_prunable = torch.cat([prefix.is_prunable.cpu(), torch.zeros(len(own), dtype=torch.bool)])
        attention = last_query_attention(query, batch.slots.keys(split - 1, slot, len(is_prunable)), scaling)
        kept.append(kept_positions(attention.cpu(), is_prunable, pruning.llm_retention_ratio))
        now = kept[-1][kept[-1] >= first]
        going.append(torch.cat([shared.waiting, own])[(now - first).to(decoder.device)])
        positions.append(torch.cat([prefix.positions.cpu(), suffixes[member].positions.cpu()], dim=1)[:, now])
    # Of the prefix, as many for every question: padding still follows from a question's own length.
    more = len(going[0]) - len(states[0])
    widened = [_Questions(b.slots, b.members, [more + count for count in b.counts], more + b.padded) for b in batches]
    for batch in widened:
        batch.slots.begin(behind, shared.cache, len(batch.members), batch.padded)
    hidden, _ = decoder.forward_together(
        torch.cat(going), torch.cat(positions, dim=1), [batch.tokens for batch in widened], behind
    )
    lengths = [len(one) for one in going]
    logits = decoder.first_logits([own[-1] for own in torch.split(hidden, lengths)])
    return [
        PrefilledPrompt(
            member,
            row,
            chosen,
            len(suffixes[member].ids) * split + length * len(behind),
            int(is_visual.sum()) * split + int(is_visual[chosen[chosen < len(is_visual)]].sum()) * len(behind),
        )
        for (_, _, member), row, chosen, length in zip(places, logits, kept, lengths, strict=True)
    ]


def _pruning_layer(decoder: Decoder, pruning: InnerPruningConfig | None) -> int:
    """Layers that run on every token."""
    if pruning is None or not pruning.prunes(decoder.num_layers):
        return decoder.num_layers
    return pruning.pruning_layer
