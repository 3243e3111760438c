"""Prompts and caches that tests of the decoder begin with."""

from __future__ import annotations

from collections.abc import Sequence

from flashvid.config import InnerPruningConfig
from flashvid.engine.decoder import Decoder
from flashvid.engine.kv_cache import KVCache
from flashvid.engine.kv_slots import KVSlots
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.prefill import PrefilledPrompt, prefill_prefix, prefill_questions


def prefill_one(
    decoder: Decoder, prefix: SharedPrefix, suffix: QuestionSuffix, pruning: InnerPruningConfig | None
) -> tuple[KVSlots, PrefilledPrompt]:
    """One question, alone in its slots."""
    (alone,) = prefill_questions(decoder, prefill_prefix(decoder, prefix, pruning), [suffix], pruning)
    (prompt,) = alone.prompts
    return alone.slots, prompt


def in_slots(decoder: Decoder, caches: Sequence[KVCache], tokens: int = 1) -> KVSlots:
    """Caches of one size as slots, with room for some more tokens."""
    joined, *others = (_in_a_slot(decoder, cache, tokens) for cache in caches)
    for slots in others:
        joined.join(slots)
    return joined


def _in_a_slot(decoder: Decoder, cache: KVCache, tokens: int) -> KVSlots:
    slots = KVSlots(decoder.no_tokens)
    slots.begin(range(decoder.num_layers), cache, 1, tokens)
    return slots
