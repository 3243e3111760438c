"""Whether what the decoder computes for one sequence hangs on which others are computed with it, on any device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2Model

from flashvid.models.decoder import Decoder
from flashvid.models.kv_cache import KVCache
from flashvid.models.kv_slots import KVSlots

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


def random_decoder(sizes: Mapping[str, int], device: str, dtype: torch.dtype, attention: str = "sdpa") -> Decoder:
    """A Qwen2 decoder of random weights."""
    torch.manual_seed(20261127)
    model = Qwen2Model(Qwen2Config(**sizes, attn_implementation=attention)).train(False)
    head = torch.randn(sizes["vocab_size"], sizes["hidden_size"])
    return Decoder(model.to(device, dtype), head.to(device, dtype))


def differing_steps(decoder: Decoder) -> int:
    """Rows of a full decoding step that come out otherwise when alone, or among the same ones in another order."""
    rows = decoder.decode_rows.most
    # Up to 64 tokens have slots of one size, more of another.
    caches = [_begun(decoder, length) for length in range(65 - rows // 2, 65 + rows // 2)]
    tokens, positions = [*range(rows)], [*range(100, 100 + rows)]
    half = rows // 2
    together = decoder.step(tokens, positions, [KVSlots(caches[:half]), KVSlots(caches[half:])])
    slots = [KVSlots(caches[: half - 1 : -1]), KVSlots(caches[half - 1 :: -1])]
    reverse = decoder.step(tokens[::-1], positions[::-1], slots).flip(0)
    alone = [decoder.step([token], [100 + token], [KVSlots([caches[token]])])[0] for token in tokens]
    return sum(
        not (torch.equal(one, together[row]) and torch.equal(reverse[row], together[row]))
        for row, one in enumerate(alone)
    )


def differing_pieces(decoder: Decoder) -> int:
    """Questions prefilled together that come out otherwise when alone or in another order: states and logits."""
    block = decoder.question_rows.most
    lengths = (block, 1, 7, 2 * block + 3, 30)
    begun = [_begun(decoder, 5 + 9 * number) for number in range(len(lengths))]

    def run(order: Sequence[int]) -> dict[int, tuple[Tensor, Tensor]]:
        pieces = [_prompt(decoder, lengths[piece]) for piece in order]
        hidden, _ = decoder.forward_together(
            torch.cat([embeddings for embeddings, _ in pieces]),
            torch.cat([positions for _, positions in pieces], dim=1),
            [(begun[piece].fork(), lengths[piece]) for piece in order],
            range(decoder.num_layers),
        )
        states = torch.split(hidden, [lengths[piece] for piece in order])
        logits = decoder.first_logits([own[-1] for own in states])
        return {piece: found for piece, *found in zip(order, states, logits, strict=True)}  # type: ignore[misc]

    together, reverse = run(range(len(lengths))), run(range(len(lengths))[::-1])
    others = {piece: (reverse[piece], run([piece])[piece]) for piece in together}
    return sum(
        not all(torch.equal(*pair) for other in others[piece] for pair in zip(found, other, strict=True))
        for piece, found in together.items()
    )


def _prompt(decoder: Decoder, length: int) -> tuple[Tensor, Tensor]:
    """Embeddings `[length, D]` and positions `[1, length]`."""
    generator = torch.Generator().manual_seed(length)
    width = decoder.embed([0]).shape[1]
    embeddings = torch.randn(length, width, generator=generator).to(decoder.device, decoder.dtype)
    return embeddings, torch.arange(length).unsqueeze(0)


def _begun(decoder: Decoder, length: int) -> KVCache:
    """The cache of a prompt."""
    cache = KVCache(decoder.num_layers)
    decoder.forward(*_prompt(decoder, length), cache, range(decoder.num_layers))
    return cache
