"""Pruning inside the decoder: the positions kept, and answers that still share a prefill."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from flashvid.config import InnerPruningConfig
from flashvid.engine.kv_cache import KVCache
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.prefill import prefill_prefix, prefill_questions
from flashvid.engine.pruning import kept_positions, last_query_attention
from flashvid.errors import ConfigurationError
from flashvid.models import CompressedVideo, GenerationConfig, VideoModel, load_model
from tests.support.embedded_model import GENERATION, QUESTIONS, TINY
from tests.support.prefilled import prefill_one

PRUNINGS = [
    InnerPruningConfig(pruning_layer=layer, llm_retention_ratio=ratio) for layer in (1, 2) for ratio in (0.1, 0.3, 1.0)
]


def test_the_last_query_sees_every_key() -> None:
    """Attention is a softmax per head and a mean over heads; consecutive heads share a key."""
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(6, 8, generator=generator), torch.randn(2, 11, 8, generator=generator)
    heads = [(query[head] @ keys[head // 3].T / math.sqrt(8)).softmax(dim=-1) for head in range(6)]
    found = last_query_attention(query, keys, 1 / math.sqrt(8))
    assert torch.allclose(found, torch.stack(heads).mean(dim=0))
    assert last_query_attention(query.bfloat16(), keys.bfloat16(), 0.3).dtype == torch.float32


def test_the_best_prunable_positions_go_on_with_all_others() -> None:
    """Prunable positions are kept in order, rounded up; high scores of other positions do not count."""
    attention = torch.tensor([0.9, 0.1, 0.3, 0.2, 0.4, 0.0, 0.8])
    is_prunable = torch.tensor([False, True, True, True, True, False, False])
    given = attention.clone(), is_prunable.clone()
    assert kept_positions(attention, is_prunable, 0.5).tolist() == [0, 2, 4, 5, 6]
    assert kept_positions(attention, is_prunable, 0.51).tolist() == [0, 2, 3, 4, 5, 6]
    assert kept_positions(attention, is_prunable, 0.01).tolist() == [0, 4, 5, 6]
    assert kept_positions(attention, is_prunable, 1.0).tolist() == [*range(7)]
    assert kept_positions(attention, torch.zeros(7, dtype=torch.bool), 0.1).tolist() == [*range(7)]
    assert kept_positions(torch.ones(7), is_prunable, 0.5).tolist() == [0, 1, 2, 5, 6]
    assert torch.equal(attention, given[0])
    assert torch.equal(is_prunable, given[1])


@pytest.mark.parametrize(
    "settings",
    [
        {"pruning_layer": 0},
        {"llm_retention_ratio": 0.0},
        {"llm_retention_ratio": 1.5},
        {"llm_retention_ratio": float("nan")},
        {"layer": 3},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    """Pruning before the first layer is an error, since there is no attention yet."""
    with pytest.raises(ValidationError, match=next(iter(settings))):
        InnerPruningConfig(**settings)


def test_pruning_waits_for_deepstack(model: VideoModel) -> None:
    """Pruning before the last deepstack layer is an error."""
    decoder = model.language.decoder
    video = torch.ones(4, dtype=torch.bool)
    prefix = SharedPrefix(torch.zeros(4, 96), torch.arange(4).expand(3, -1), video, video, (torch.zeros(4, 96),) * 2)
    with pytest.raises(
        ConfigurationError,
        match="pruning_layer 1 is too early: this model adds visual features after its first 2 layers",
    ):
        prefill_prefix(decoder, prefix, InnerPruningConfig(pruning_layer=1))
    prefill_prefix(decoder, prefix, InnerPruningConfig(pruning_layer=2))


def laid_out(model: VideoModel, compressed: CompressedVideo, question: str) -> tuple[SharedPrefix, QuestionSuffix]:
    """Return the two parts of a question's prompt."""
    language = model.language
    before, after = language.chat.around_video(question, GENERATION.system_prompt)
    return language.prefix(before, compressed), language.suffix(before, after, compressed)


@torch.no_grad()
def published(model: VideoModel, prefix: SharedPrefix, suffix: QuestionSuffix, pruning: InnerPruningConfig) -> Any:
    """Run the method in one pass over the whole prompt with stock layers: attention, positions kept, logits `[V]`."""
    decoder = model.language.decoder
    stock = decoder._model
    hidden = torch.cat([prefix.embeddings, decoder.embed(suffix.ids)]).unsqueeze(0)
    positions = torch.cat([prefix.positions, suffix.positions], dim=1).unsqueeze(1)
    attention, kept = torch.empty(0), torch.arange(hidden.shape[1])

    def run(layer: Any, states: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        mask = torch.full((at.shape[-1],) * 2, -torch.inf, dtype=states.dtype).triu(1)[None, None]
        seen: list[Tensor] = []
        hook = layer.self_attn.register_forward_hook(lambda _module, _given, output: seen.append(output[1]))
        states = layer(states, attention_mask=mask, position_embeddings=stock.rotary_emb(states, at))
        hook.remove()
        return states, seen[0]

    for index, layer in enumerate(stock.layers):
        if index == pruning.pruning_layer:
            is_prunable = torch.cat([prefix.is_prunable, torch.zeros(len(suffix.ids), dtype=torch.bool)])
            candidates = sorted(is_prunable.nonzero().flatten().tolist(), key=lambda i: -float(attention[i]))
            chosen = candidates[: math.ceil(len(candidates) * pruning.llm_retention_ratio)]
            kept = torch.tensor(sorted({*chosen, *(~is_prunable).nonzero().flatten().tolist()}))
            hidden, positions = hidden[:, kept], positions[..., kept]
        hidden, weights = run(layer, hidden, positions)
        attention = weights[0, :, -1].mean(dim=0)
    return kept, decoder.logits(hidden[0, -1:])[0]


@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_sharing_is_the_published_method(compressed: CompressedVideo, pruning: InnerPruningConfig) -> None:
    """A prefix run before its question is known gives the tokens and the logits of one pass over the prompt."""
    model = load_model(TINY, dtype="float32", device="cpu", attn_implementation="eager", part="language")
    decoder = model.language.decoder
    for question in QUESTIONS:
        prefix, suffix = laid_out(model, compressed, question)
        kept, logits = published(model, prefix, suffix, pruning)
        _, found = prefill_one(decoder, prefix, suffix, pruning)
        assert found.kept.tolist() == kept.tolist()
        assert torch.allclose(found.logits, logits, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pruning", PRUNINGS, ids=str)
def test_asked_together_equals_asked_alone(
    compressed: CompressedVideo, pruning: InnerPruningConfig, dtype: str
) -> None:
    """Answers are bit-identical in any order and batch."""
    model = load_model(TINY, dtype=dtype, device="cpu", part="language")
    together = model.answer(compressed, QUESTIONS, GENERATION, pruning=pruning)
    alone = [model.answer(compressed, [question], GENERATION, pruning=pruning)[0] for question in QUESTIONS]
    assert together == alone
    assert together == model.answer(compressed, QUESTIONS[::-1], GENERATION, pruning=pruning)[::-1]


def test_questions_decide_what_is_kept(model: VideoModel, compressed: CompressedVideo) -> None:
    """Different questions keep different tokens, and pruning changes answers."""
    pruning = InnerPruningConfig(pruning_layer=1, llm_retention_ratio=0.1)
    decoder = model.language.decoder
    prompts = [laid_out(model, compressed, question) for question in QUESTIONS]
    shared = prefill_prefix(decoder, prompts[0][0], pruning)
    found = prefill_questions(decoder, shared, [suffix for _, suffix in prompts], pruning)
    kept = {tuple(one.kept.tolist()) for together in found for one in together.prompts}
    assert len(kept) > 1
    answers = model.answer(compressed, QUESTIONS, GENERATION, pruning=pruning)
    plain = model.answer(compressed, QUESTIONS, GENERATION)
    assert [answer.response for answer in answers] != [answer.response for answer in plain]


def test_without_layers_behind_it_nothing_is_pruned(model: VideoModel, compressed: CompressedVideo) -> None:
    """A pruning layer at or beyond the last equals no pruning, in every bit and count."""
    plain = model.answer(compressed, QUESTIONS, GENERATION)
    for layer in (3, 20):
        pruning = InnerPruningConfig(pruning_layer=layer, llm_retention_ratio=0.1)
        assert model.answer(compressed, QUESTIONS, GENERATION, pruning=pruning) == plain


def test_keeping_all_tokens_is_not_pruning(model: VideoModel, compressed: CompressedVideo) -> None:
    """Keeping every token gives the same answers, through the pruned path."""
    everything = InnerPruningConfig(pruning_layer=1, llm_retention_ratio=1.0)
    plain = model.answer(compressed, QUESTIONS, GENERATION)
    found = model.answer(compressed, QUESTIONS, GENERATION, pruning=everything)
    assert [answer.response for answer in found] == [answer.response for answer in plain]


@pytest.mark.parametrize("pruning", [None, *PRUNINGS], ids=str)
def test_work_is_counted_as_it_is_done(
    model: VideoModel, compressed: CompressedVideo, pruning: InnerPruningConfig | None
) -> None:
    """The token-layers of all questions add up to what hooks in the layers see, without padding."""
    seen: list[int] = []
    layers = model.language.decoder._model.layers
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _module, given: seen.append(int(given[0].any(dim=1).sum()))
        )
        for layer in layers
    ]
    try:
        answers = model.answer(compressed, QUESTIONS, GenerationConfig(max_new_tokens=1), pruning=pruning)
    finally:
        for hook in hooks:
            hook.remove()
    (shared,) = {answer.token_layers.shared for answer in answers}
    assert sum(seen) == shared + sum(answer.token_layers.prompt for answer in answers)
    for answer in answers:
        num_own, num_video = answer.num_prompt_tokens - answer.num_shared_tokens, answer.num_visual_tokens
        num_before = answer.num_shared_tokens - num_video
        if pruning is None:
            assert answer.token_layers.shared == answer.num_shared_tokens * 3
            assert answer.token_layers.prompt == num_own * 3
            assert answer.token_layers.visual == num_video * 3
        else:
            first, later = pruning.pruning_layer, 3 - pruning.pruning_layer
            kept = math.ceil(num_video * pruning.llm_retention_ratio)
            assert answer.token_layers.shared == answer.num_shared_tokens * first + num_before * later
            assert answer.token_layers.prompt == num_own * first + (kept + num_own) * later
            assert answer.token_layers.visual == num_video * first + kept * later
        assert answer.token_layers.generated == 0


@pytest.mark.parametrize("pruning", [None, InnerPruningConfig(pruning_layer=1, llm_retention_ratio=0.1)], ids=str)
@pytest.mark.parametrize("num_shared", [0, 5])
def test_a_prompt_without_a_video(model: VideoModel, pruning: InnerPruningConfig | None, num_shared: int) -> None:
    """Without prunable or shared tokens, the logits equal those of one pass."""
    decoder = model.language.decoder
    ids, positions = tuple(range(20, 32)), torch.arange(12).expand(3, -1)
    whole, _ = decoder.forward(decoder.embed(ids), positions, KVCache(3), range(3))
    none = torch.zeros(num_shared, dtype=torch.bool)
    prefix = SharedPrefix(decoder.embed(ids[:num_shared]), positions[:, :num_shared], none, none)
    suffix = QuestionSuffix(ids[num_shared:], positions[:, num_shared:], 12)
    slots, found = prefill_one(decoder, prefix, suffix, pruning)
    assert torch.allclose(found.logits, decoder.logits(whole[-1:])[0], rtol=0, atol=1e-4)
    assert found.kept.tolist() == [*range(12)]
    assert slots.lengths == [(12, 12, 12)]


def test_a_question_needs_a_token(model: VideoModel) -> None:
    """A question needs a token: its last one decides what is kept and gives the first logits."""
    decoder, none = model.language.decoder, torch.zeros(2, dtype=torch.bool)
    prefix = SharedPrefix(decoder.embed((1, 2)), torch.arange(2).expand(3, -1), none, none)
    shared = prefill_prefix(decoder, prefix, None)
    with pytest.raises(ConfigurationError, match="a token after its video"):
        prefill_questions(decoder, shared, [QuestionSuffix((), torch.empty(3, 0, dtype=torch.int64), 2)], None)
