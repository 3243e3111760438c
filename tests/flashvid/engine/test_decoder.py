"""The loop over decoder layers, compared with stock transformers and with recorded runs of the reference."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2Config,
    Qwen2Model,
    Qwen3VLTextConfig,
    Qwen3VLTextModel,
)

from flashvid.config import InnerPruningConfig
from flashvid.engine.constants import CPU_DECODE_ROWS as ROWS
from flashvid.engine.constants import QUESTION_ROWS
from flashvid.engine.decoder import Decoder
from flashvid.engine.decoder_attention import SlotTokens
from flashvid.engine.kv_cache import KVCache, LayerCache
from flashvid.engine.kv_slots import KVSlots
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.running import Together, joined
from flashvid.errors import ConfigurationError
from jobs.lab.operations import CountOperations
from tests.oracles.reference import REFERENCE, Vector, load_vector
from tests.oracles.reference_e2e import compare_run, run_parts
from tests.support.company import QWEN2_7B, differing, random_decoder
from tests.support.prefilled import in_slots

E2E = REFERENCE / "e2e"
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 1024,
}
KINDS: dict[str, tuple[type[nn.Module], type, dict[str, Any]]] = {
    "qwen2": (Qwen2Model, Qwen2Config, {}),
    "qwen2_5_vl": (
        Qwen2_5_VLTextModel,
        Qwen2_5_VLTextConfig,
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}},
    ),
    "qwen3_vl": (
        Qwen3VLTextModel,
        Qwen3VLTextConfig,
        {
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
    ),
}


def stock_model(kind: str, **settings: Any) -> tuple[Any, Tensor]:
    """Return a random model of transformers, and a head for it."""
    torch.manual_seed(20261123)
    model, config, more = KINDS[kind]
    settings = {"attn_implementation": "sdpa", **settings}
    return model(config(**SIZES, **more, **settings)).train(False), torch.randn(256, 64)


def prompt_of(kind: str, length: int = 40) -> tuple[Tensor, Tensor]:
    """Return embeddings `[length, D]`, and positions with gaps `[R, length]`."""
    generator = torch.Generator().manual_seed(5)
    rows = 1 if kind == "qwen2" else 3
    positions = torch.randint(1, 4, (rows, length), generator=generator).cumsum(dim=1)
    return torch.randn(length, 64, generator=generator), positions


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", KINDS)
def test_pieces_equal_the_whole(kind: str, attention: str) -> None:
    """A prompt in three pieces on top of a cache gives the hidden states of one stock forward pass."""
    model, head = stock_model(kind, attn_implementation=attention)
    embeddings, positions = prompt_of(kind)
    named = positions if kind == "qwen2" else positions.unsqueeze(1)
    # Without a mask, transformers treats gaps between positions as ends of packed sequences.
    everything = torch.ones(1, 40, dtype=torch.int64)
    with torch.no_grad():
        expected = model(
            inputs_embeds=embeddings.unsqueeze(0), position_ids=named, attention_mask=everything, use_cache=False
        )
    decoder, cache = Decoder(model, head), KVCache(3)
    pieces = [
        decoder.forward(embeddings[span], positions[:, span], cache, range(3))[0]
        for span in (slice(0, 20), slice(20, 21), slice(21, 40))
    ]
    hidden = model.norm(torch.cat(pieces))
    assert torch.allclose(hidden, expected.last_hidden_state[0], rtol=0, atol=2e-5)
    assert cache.lengths == (40, 40, 40)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_may_be_run_apart(kind: str) -> None:
    """Running the first layers first and the rest later equals one pass."""
    model, head = stock_model(kind)
    embeddings, positions = prompt_of(kind)
    decoder, at_once, apart = Decoder(model, head), KVCache(3), KVCache(3)
    whole, _ = decoder.forward(embeddings, positions, at_once, range(3))
    half, _ = decoder.forward(embeddings, positions, apart, range(1))
    assert apart.lengths == (40, 0, 0)
    rest, _ = decoder.forward(half, positions, apart, range(1, 3))
    assert torch.equal(whole, rest)


def begun_caches(decoder: Decoder, lengths: Sequence[int], kind: str = "qwen2_5_vl") -> list[KVCache]:
    """Return caches of prompts of these lengths."""
    caches = [KVCache(3) for _ in lengths]
    for cache, length in zip(caches, lengths, strict=True):
        embeddings, positions = prompt_of(kind, length)
        decoder.forward(embeddings.to(decoder.dtype), positions, cache, range(3))
    return caches


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_is_the_same_in_any_company(dtype: torch.dtype, attention: str) -> None:
    """A slot's logits are bit-identical alone, with others of other lengths and sizes, and in another order."""
    model, head = stock_model("qwen2_5_vl", attn_implementation=attention)
    decoder = Decoder(model.to(dtype), head.to(dtype))
    # Up to 63 tokens and one more have slots of one size, longer ones of another.
    caches = begun_caches(decoder, range(64 - ROWS // 2, 64 + ROWS // 2))
    short, long = caches[: ROWS // 2], caches[ROWS // 2 :]
    assert in_slots(decoder, short).size != in_slots(decoder, long).size
    tokens, positions = list(range(ROWS)), list(range(100, 100 + ROWS))
    together = decoder.step(tokens, positions, [in_slots(decoder, short), in_slots(decoder, long)])
    for row in range(ROWS):
        alone = decoder.step([tokens[row]], [positions[row]], [in_slots(decoder, [caches[row]])])
        assert torch.equal(alone[0], together[row])
    reverse = decoder.step(
        tokens[::-1], positions[::-1], [in_slots(decoder, long[::-1]), in_slots(decoder, short[::-1])]
    )
    assert torch.equal(reverse.flip(0), together)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slot_is_the_same_when_others_leave(dtype: torch.dtype, attention: str) -> None:
    """A slot is bit-identical over more steps than it first has room for, while others end; caches do not change."""
    model, head = stock_model("qwen2_5_vl", attn_implementation=attention)
    decoder = Decoder(model.to(dtype), head.to(dtype))
    # Each is full at a different step, and is then in tensors of another size until the others are full, too.
    caches = dict(zip("abcd", begun_caches(decoder, (30, 31, 32, 33)), strict=True))
    before = [cache[1].keys.clone() for cache in caches.values()]

    def run(names: str, leaving: dict[int, str]) -> tuple[list[Tensor], list[Any], set[int]]:
        """Return the logits of c in 140 steps, the last groups, and the numbers of groups."""
        running: list[Any] = [Together([*names], in_slots(decoder, [caches[name] for name in names]))]  # type: ignore[list-item]
        logits, counts = [], set()
        for number in range(140):
            running = joined([*running, *(larger for group in running for larger in group.take_grown())])
            running = [group for group in running if group.answers]
            order = [name for group in running for name in group.answers]
            count = len(order)
            rows = decoder.step([number] * count, [100 + number] * count, [group.slots for group in running])
            logits.append(rows[order.index("c")])
            for group in running:
                group.leave([index for index, name in enumerate(group.answers) if name in leaving.get(number, "")])
            running = [group for group in running if group.answers]
            counts.add(len(running))
        return logits, running, counts

    expected, (alone,), _ = run("c", {})
    found, (group,), counts = run("abcd", {20: "a", 96: "d", 120: "b"})
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    assert counts == {1, 2}
    assert group.slots.lengths == [(172,) * 3] == alone.slots.lengths
    assert all(torch.equal(cache[1].keys, keys) for cache, keys in zip(caches.values(), before, strict=True))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pieces_are_the_same_in_any_company(dtype: torch.dtype, attention: str) -> None:
    """Pieces of any length are bit-identical alone and in another order, and close to a plain run."""
    model, head = stock_model("qwen2_5_vl", attn_implementation=attention)
    decoder = Decoder(model.to(dtype), head.to(dtype))
    lengths = (QUESTION_ROWS, 1, 7, 2 * QUESTION_ROWS + 3, 30, 260)
    pieces = [prompt_of("qwen2_5_vl", length) for length in lengths]
    begun = [KVCache(3) for _ in lengths]
    for number, cache in enumerate(begun):
        embeddings, positions = prompt_of("qwen2_5_vl", 5 + 9 * number)
        decoder.forward(embeddings.to(dtype), positions, cache, range(3))

    sizes: set[tuple[int, ...]] = set()

    def run(order: Sequence[int]) -> dict[int, list[Tensor]]:
        """Return states, last query and logits of each piece."""
        # Consecutive pieces share tensors where their sizes permit.
        batches: list[SlotTokens] = []
        for piece in order:
            padded = -(-lengths[piece] // 32) * 32
            slots = in_slots(decoder, [begun[piece]], padded)
            if batches and (slots.size, padded) == (batches[-1].slots.size, batches[-1].padded):
                batches[-1].slots.join(slots)
                batches[-1] = replace(batches[-1], counts=[*batches[-1].counts, lengths[piece]])
            else:
                batches.append(SlotTokens(slots, [lengths[piece]], padded))
        sizes.add(tuple(len(batch.counts) for batch in batches))
        hidden, queries = decoder.forward_together(
            torch.cat([pieces[piece][0] for piece in order]).to(dtype),
            torch.cat([pieces[piece][1] for piece in order], dim=1),
            batches,
            range(3),
        )
        assert queries is not None
        states = torch.split(hidden, [lengths[piece] for piece in order])
        logits = decoder.first_logits([own[-1] for own in states])
        return {piece: [*found] for piece, *found in zip(order, states, queries, logits, strict=True)}

    together, reverse = run(range(len(lengths))), run((5, 4, 1, 2, 3, 0))
    assert sizes == {(1, 2, 1, 1, 1), (1, 1, 2, 1, 1)}
    tolerance = 2e-5 if dtype == torch.float32 else 0.1
    for piece, (embeddings, positions) in enumerate(pieces):
        for found in (reverse, run([piece])):
            assert all(torch.equal(*pair) for pair in zip(together[piece], found[piece], strict=True))
        states, query = decoder.forward(embeddings.to(dtype), positions, begun[piece].fork(), range(3))
        assert query is not None
        plain = (states, query, decoder.logits(states[-1:])[0])
        for ours, theirs, scale in zip(together[piece], plain, (1, 1, 20), strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=scale * tolerance)


def test_a_fork_changes_nothing_for_the_other() -> None:
    """Forks grow independently, in either order."""
    model, head = stock_model("qwen2")
    decoder, cache = Decoder(model, head), KVCache(3)
    embeddings, positions = prompt_of("qwen2", 10)

    def grow(token: int, position: int, grown: KVCache) -> Tensor:
        """Return the states of one more token."""
        return decoder.forward(decoder.embed([token]), torch.tensor([[position]]), grown, range(3))[0]

    decoder.forward(embeddings, positions, cache, range(3))
    first, second = cache.fork(), cache.fork()
    expected = grow(7, 60, cache.fork())
    assert not torch.equal(grow(8, 60, first), expected)
    assert torch.equal(grow(7, 60, second), expected)
    assert torch.equal(grow(7, 60, cache), expected)
    after = grow(9, 61, second.fork())
    assert torch.equal(grow(9, 61, second), after)
    assert (cache.lengths[0], first.lengths[0], second.lengths[0]) == (11, 11, 12)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("start", [1, 63, 64, 65])
def test_steps_equal_one_pass(start: int, attention: str) -> None:
    """More steps than a slot first has room for equal one pass over the same tokens."""
    model, head = stock_model("qwen2", attn_implementation=attention)
    decoder, cache, at_once = Decoder(model, head), KVCache(3), KVCache(3)
    ids = list(range(start + 140))
    places = torch.arange(len(ids)).unsqueeze(0)
    decoder.forward(decoder.embed(ids[:start]), places[:, :start], cache, range(3))
    slots, rows = in_slots(decoder, [cache]), []
    for position in range(start, len(ids)):
        slots = slots.take_grown(slots.full())[0] if slots.full() else slots
        rows.append(decoder.step([ids[position]], [position], [slots])[0])
    hidden, _ = decoder.forward(decoder.embed(ids), places, at_once, range(3))
    assert torch.allclose(torch.stack(rows), decoder.logits(hidden[start:]), rtol=0, atol=5e-4)


def test_slots_are_of_one_size() -> None:
    """A slot's size follows from the answer in it, never from its neighbours."""
    decoder = Decoder(*stock_model("qwen2_5_vl"))
    with pytest.raises(ValueError, match="size"):
        in_slots(decoder, begun_caches(decoder, (63, 64)))


def test_only_full_layers_grow() -> None:
    """If layers hold different numbers of tokens, only the full layers grow, and the tokens do not change."""
    keys = torch.randn(2, 128, 4, generator=torch.Generator().manual_seed(1))
    cache, slots = KVCache(0), KVSlots(keys[:, :0])
    for _ in range(3):
        cache.add(LayerCache((keys[:, :100], keys[:, :100])))
    slots.begin(range(2), cache, 3, 28)
    slots.begin(range(2, 3), cache, 3, 28)
    for layer, lengths in ((0, [150, 192, 150]), (2, [192, 100, 192])):
        section = slots.section(layer)
        section.lengths, section.fullest = torch.tensor(lengths), 192
    full = slots.full()
    assert full == {(1,): [0, 2], (0,): [1]}
    later, front = slots.take_grown(full)
    assert later.size == ((range(2), 192), (range(2, 3), 448))
    assert front.size == ((range(2), 448), (range(2, 3), 192))
    assert [one.lengths for one in (later, front)] == [[(150, 150, 192)] * 2, [(192, 192, 100)]]
    assert torch.equal(later.keys(2, 1, 100), keys[:, :100])
    assert len(slots) == 0


def test_questions_go_into_slots_that_have_just_begun() -> None:
    """Prefill does not read the room for the answer, so tokens that reach it are an error, not silently ignored."""
    decoder = Decoder(*stock_model("qwen2"))
    slots = in_slots(decoder, begun_caches(decoder, [20], "qwen2"))
    for number in range(50):
        decoder.step([1], [20 + number], [slots])
    embeddings, positions = prompt_of("qwen2", 7)
    with pytest.raises(ValueError, match="slots of 128 tokens that hold 70 have no room for 32 more"):
        decoder.forward_together(embeddings, positions, [SlotTokens(slots, [7], 32)], range(3))


@pytest.mark.parametrize(
    ("threads", "groups", "attention"), [(2, 1, "sdpa"), (3, 7, "sdpa"), (6, 1, "eager"), (6, 7, "eager")]
)
def test_company_does_not_matter_with_any_number_of_threads(threads: int, groups: int, attention: str) -> None:
    """Results do not depend on the number of threads, which split work within rows or share small work."""
    narrow = {"hidden_size": 448, "intermediate_size": 2368, "num_attention_heads": 7, "num_key_value_heads": groups}
    decoder = random_decoder({**QWEN2_7B, **narrow, "vocab_size": 512}, "cpu", torch.float32, attention)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert differing(decoder) == (0, 0)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_costs_few_operations_however_many_answers(kind: str) -> None:
    """A step costs few operations, which Python and GPU launches take time for; stock layers cost twice as many."""
    decoder = Decoder(*stock_model(kind))
    # The trials of row counts run once.
    assert decoder.decode_rows.interchangeable[-1] == ROWS
    counts = []
    for number in (1, ROWS):
        slots = in_slots(decoder, begun_caches(decoder, [20] * number, kind))
        with CountOperations() as operations:
            decoder.step([1] * number, [20] * number, [slots])
        counts.append(operations.count)
    # For three layers, and for the operations around them.
    assert counts[1] <= counts[0] <= 3 * 55 + 60


@pytest.mark.parametrize("kind", KINDS)
def test_a_models_weights_stay_what_and_where_they_are(kind: str) -> None:
    """Fused projections are views of one tensor: the stock model still computes the same, without a second copy."""
    model, head = stock_model(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Decoder(model, head)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    for layer in model.layers:
        for modules in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj"):
            weights = [layer.get_submodule(name).weight for name in modules]
            assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
            assert weights[0].untyped_storage().nbytes() == sum(weight.nbytes for weight in weights)


def test_what_this_loop_cannot_run_is_refused() -> None:
    """Sliding-window attention and unknown attention implementations are errors."""
    model, head = stock_model("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)
    with pytest.raises(ConfigurationError, match="sliding-window"):
        Decoder(model, head)
    model, head = stock_model("qwen2")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(ConfigurationError, match="'flex_attention' is not one of"):
        Decoder(model, head)


# Families without their language sides: the recorded inputs of their decoders.


def reference_decoder(family: str) -> Decoder:
    """Load the reference's decoder with the stock class."""
    config = json.loads((E2E / f"{family}_config.json").read_text())
    weights = load_file(E2E / f"{family}_weights.safetensors")
    text = config.get("text") or config["text_config"]
    model, configuration, _ = KINDS["qwen3_vl" if family == "qwen3_vl" else "qwen2"]
    prefix = "model.language_model." if family == "qwen3_vl" else "model."
    module = model(configuration(**text, attn_implementation="sdpa"))
    names = module.state_dict()
    module.load_state_dict({name: weights[prefix + name] for name in names})
    return Decoder(module.train(False), weights["lm_head.weight"])


def reference_prompt(family: str, vector: Vector) -> tuple[SharedPrefix, QuestionSuffix]:
    """Return the recorded input of the decoder in two parts; the suffix follows the last visual placeholder."""
    tensors = vector.tensors
    embeddings = tensors["lm_inputs_embeds"][0]
    positions = tensors["lm_position_ids"].reshape(-1, len(embeddings))
    ids = load_file(E2E / f"{family}_inputs.safetensors")["input_ids"][0]
    last = int((ids == (501 if family == "qwen3_vl" else -200)).nonzero().max())
    # Qwen3-VL drops the vision_end after the last video token (docs/flashvid.md, section 8).
    after = tuple(token for token in ids[last + 1 :].tolist() if token != 503)
    split = len(embeddings) - len(after)
    if family == "qwen3_vl":
        is_prunable = tensors["lm_visual_pos_masks"][0]
    else:
        first, count = vector.metadata["visual_token_start_index"], vector.metadata["kept"]
        # The newlines after each frame can be pruned, a single one at the end cannot.
        count += len(tensors["vision_features"]) if family == "llava_video" else 0
        is_prunable = (torch.arange(len(embeddings)) >= first) & (torch.arange(len(embeddings)) < first + count)
    deepstack = tuple(tensors[name] for name in ("lm_deepstack_0", "lm_deepstack_1") if name in tensors)
    prefix = SharedPrefix(embeddings[:split], positions[:, :split], is_prunable[:split], is_prunable[:split], deepstack)
    return prefix, QuestionSuffix(after, positions[:, split:], int(positions[:, -1].max()) + 1)


@pytest.mark.skipif(not E2E.is_dir(), reason=f"reference vectors are not at {E2E}; set FLASHVID_REFERENCE")
@pytest.mark.parametrize("method", ["v1", "v2"])
@pytest.mark.parametrize("family", ["llava_onevision", "llava_video", "qwen3_vl"])
def test_the_references_decoders(family: str, method: str) -> None:
    """Pruning, ids, logits and cache lengths equal the recorded ones for every family."""
    path = Path(E2E / f"{family}_r0.25_{method}.safetensors")
    vector = load_vector(path)
    prefix, suffix = reference_prompt(family, vector)
    decoder = reference_decoder(family)
    pruning = InnerPruningConfig(
        pruning_layer=vector.params["pruning_layer"], llm_retention_ratio=vector.params["llm_retention_ratio"]
    )
    run = run_parts(decoder, prefix, suffix, pruning)
    assert run.kept.tolist() == vector.tensors["inner_keep_indices"].tolist()
    assert compare_run(run, vector.tensors) is None
