"""Whether what the decoder computes for one sequence hangs on which others are computed with it, on any device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2Model

from flashvid.engine.decoder import Decoder
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.prefill import prefill_prefix, prefill_questions

# Two layers as wide as Qwen2-7B's, with a small vocabulary.
QWEN2_7B: Mapping[str, int] = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 2,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
    "max_position_embeddings": 4096,
}
_PREFIX, _STEPS = 50, 3


def random_decoder(sizes: Mapping[str, int], device: str, dtype: torch.dtype, attention: str = "sdpa") -> Decoder:
    """A Qwen2 decoder of random weights."""
    torch.manual_seed(20261127)
    model = Qwen2Model(Qwen2Config(**sizes, attn_implementation=attention)).train(False)
    head = torch.randn(sizes["vocab_size"], sizes["hidden_size"])
    return Decoder(model.to(device, dtype), head.to(device, dtype))


def differing(decoder: Decoder) -> tuple[int, int]:
    """Of as many questions as a step has rows: how many come out otherwise alone or in another order.

    Returns:
        Those whose first logits do, and those whose logits of the steps behind do.
    """
    rows = decoder.decode_rows.most
    shared = prefill_prefix(decoder, _prefix(decoder), None)
    # From one token to more than two blocks.
    lengths = [1, 7, 30, 33, 2 * decoder.question_rows.most + 3]
    suffixes = [_suffix(lengths[number % len(lengths)], number) for number in range(rows)]

    def run(order: Sequence[int]) -> dict[int, list[Tensor]]:
        """Logits of each question, of its first token and of each step."""
        batches = prefill_questions(decoder, shared, [suffixes[number] for number in order], None)
        numbers = [order[prompt.question] for batch in batches for prompt in batch.prompts]
        found = [[prompt.logits] for batch in batches for prompt in batch.prompts]
        for step in range(_STEPS):
            positions = [suffixes[number].next_position + step for number in numbers]
            logits = decoder.step([*numbers], positions, [batch.slots for batch in batches])
            for own, row in zip(found, logits, strict=True):
                own.append(row)
        return dict(zip(numbers, found, strict=True))

    together, reverse = run(range(rows)), run(range(rows)[::-1])
    first = later = 0
    for number, found in together.items():
        others = (reverse[number], run([number])[number])
        first += not all(torch.equal(found[0], other[0]) for other in others)
        later += not all(torch.equal(*pair) for other in others for pair in zip(found[1:], other[1:], strict=True))
    return first, later


def _prefix(decoder: Decoder) -> SharedPrefix:
    """What all questions share."""
    embeddings = decoder.embed([*range(_PREFIX)])
    none = torch.zeros(_PREFIX, dtype=torch.bool)
    return SharedPrefix(embeddings, torch.arange(_PREFIX).unsqueeze(0), none, none)


def _suffix(length: int, number: int) -> QuestionSuffix:
    """A question of its own."""
    ids = tuple((7 * number + token) % 256 for token in range(length))
    positions = torch.arange(_PREFIX, _PREFIX + length).unsqueeze(0)
    return QuestionSuffix(ids, positions, _PREFIX + length)
