"""Batches of questions: settings change an answer, its batch and the available memory do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from flashvid.config import InnerPruningConfig
from flashvid.engine import generation
from flashvid.engine.constants import CPU_DECODE_ROWS
from flashvid.engine.decoder import Decoder
from flashvid.engine.decoder_attention import SlotTokens
from flashvid.engine.generation import Batch, Ending, Generated, Prompt, SharedPrompts
from flashvid.engine.kv_cache import KVCache
from flashvid.engine.kv_slots import KVSlots
from flashvid.errors import ConfigurationError
from flashvid.models import Answer, ClipQuestions, CompressedVideo, GenerationConfig, VideoModel, devices, load_model
from flashvid.models.devices import fitting_tokens
from tests.support.embedded_model import GENERATION, QUARTER, QUESTIONS, TIMES, TINY, video

MANY = tuple(f"Is there a {colour} {shape}?" for colour in ("red", "blue", "green") for shape in "abcdefgh")
PRUNING = InnerPruningConfig(pruning_layer=1, llm_retention_ratio=0.3)
WARM = GenerationConfig(max_new_tokens=12, temperature=20.0, seed=3)


@pytest.fixture(scope="module")
def videos(model: VideoModel) -> list[CompressedVideo]:
    """Return three clips."""
    return [model.compress(model.encode(video(seed), TIMES), QUARTER) for seed in range(3)]


class NarrowDecoder(Decoder):
    """Runs out of memory after a step with more answers than `most`, and records its calls."""

    def __init__(self, decoder: Decoder, *, most: int, failures: int = 10**9) -> None:
        super().__init__(decoder._model, decoder._head)
        self.most, self.failures = most, failures
        self.batches: list[int] = []
        self.tokens: list[int] = []
        self.held: list[float] = []

    def step(self, tokens: Sequence[int], positions: Sequence[int], batches: Sequence[KVSlots]) -> Tensor:
        """Run the step and then fail, when the slots have already grown."""
        logits = super().step(tokens, positions, batches)
        self.batches.append(len(tokens))
        self.tokens.append(sum(lengths[0] for slots in batches for lengths in slots.lengths))
        memory = {
            tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
            for slots in batches
            for section in (slots.section(layer) for layer in range(self.num_layers))
            for tensor in (*section.keys, *section.values)
        }
        self.held.append(sum(memory.values()) / self.token_bytes)
        if self.batches[-1] > self.most and self.failures:
            self.failures -= 1
            raise torch.cuda.OutOfMemoryError("injected")
        return logits


def groups(model: VideoModel, videos: Sequence[CompressedVideo], questions: Sequence[str]) -> list[SharedPrompts]:
    """Return the same questions about each clip."""
    language, found = model.language, []
    for compressed in videos:
        texts = [language.chat.around_video(question, GENERATION.system_prompt) for question in questions]
        before = texts[0][0]
        prompts = tuple(Prompt(language.suffix(before, after, compressed), str(after)) for _, after in texts)
        found.append(SharedPrompts(language.prefix(before, compressed), prompts))
    return found


def run_batch(
    model: VideoModel,
    decoder: Decoder,
    prompts: list[SharedPrompts],
    max_batch_tokens: int = 32768,
    settings: GenerationConfig = GENERATION,
    *,
    endless: bool = False,
) -> list[list[Generated]]:
    """Run a batch with inner pruning; endless answers have full length."""
    ending = Ending(frozenset() if endless else model.language.chat.end_tokens, (), model.language.chat.text)
    return Batch(decoder, prompts, settings, ending, pruning=PRUNING, max_batch_tokens=max_batch_tokens).run()


@pytest.mark.parametrize("generation", [GENERATION, WARM], ids=["greedy", "drawn"])
def test_more_questions_than_rows(model: VideoModel, compressed: CompressedVideo, generation: GenerationConfig) -> None:
    """Questions that wait until others have left get the same answers as alone."""
    assert len(MANY) > CPU_DECODE_ROWS
    together = model.answer(compressed, MANY, generation, pruning=PRUNING)
    for question, answer in zip(MANY, together, strict=True):
        assert model.answer(compressed, [question], generation, pruning=PRUNING) == [answer]


def test_clips_share_a_batch(model: VideoModel, videos: list[CompressedVideo]) -> None:
    """Clips in one batch get the same answers as alone, in fewer steps; a clip may have no questions."""
    asked = [ClipQuestions(videos[0], QUESTIONS[:2]), ClipQuestions(videos[1], ()), ClipQuestions(videos[2], MANY[:3])]
    together = model.answer_many(asked, GENERATION)
    assert together == [model.answer(clip.compressed, clip.questions, GENERATION) for clip in asked]
    assert model.answer_many([], GENERATION) == []
    decoder = NarrowDecoder(model.language.decoder, most=99)
    run_batch(model, decoder, groups(model, videos, QUESTIONS[:2]))
    assert decoder.batches[0] == 6


def test_finished_answers_leave_the_batch(model: VideoModel, videos: list[CompressedVideo]) -> None:
    """A step runs only unfinished answers."""
    decoder = NarrowDecoder(model.language.decoder, most=99)
    found = run_batch(model, decoder, groups(model, videos, QUESTIONS))
    lengths = [len(generated.ids) for group in found for generated in group]
    assert len(set(lengths)) > 1
    assert decoder.batches == [sum(length > step for length in lengths) for step in range(1, max(lengths))]


def test_rows_are_refilled_several_at_a_time(model: VideoModel, videos: list[CompressedVideo]) -> None:
    """New questions are admitted when a quarter of the rows is free, so that they share a pass over the weights."""
    asked = [f"{question} {'Or ' * number}" for number, question in enumerate(MANY * 2)]
    prompts = groups(model, videos[:1], asked)
    decoder = NarrowPrefill(model.language.decoder, most=99)
    found = run_batch(model, decoder, prompts)
    assert len({len(generated.ids) for generated in found[0]}) > 1
    # With inner pruning each admission runs the decoder in two parts.
    admitted = decoder.asked[::2]
    assert sum(admitted) == len(asked)
    assert admitted[0] == CPU_DECODE_ROWS
    assert min(admitted[:-1]) >= CPU_DECODE_ROWS // 4


@pytest.mark.parametrize("max_batch_tokens", [1, 150, 400, 900])
def test_memory_is_bounded(model: VideoModel, videos: list[CompressedVideo], max_batch_tokens: int) -> None:
    """Caches hold no more tokens than the limit, unless a single question does; the answers are the same."""
    prompts = groups(model, videos, QUESTIONS)
    expected = run_batch(model, model.language.decoder, prompts)
    decoder = NarrowDecoder(model.language.decoder, most=99)
    assert run_batch(model, decoder, prompts, max_batch_tokens) == expected
    largest = zip(decoder.batches, decoder.tokens, strict=True)
    assert all(tokens <= max_batch_tokens or batch == 1 for batch, tokens in largest)
    if max_batch_tokens == 900:
        assert max(decoder.batches) > 1


def test_a_gpu_without_room_gets_smaller_batches(
    model: VideoModel, compressed: CompressedVideo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches become smaller before memory runs out; the answers are the same."""
    expected, decoder = model.answer(compressed, QUESTIONS, GENERATION), model.language.decoder
    sizes: list[int] = []
    step = decoder.step

    def noted(tokens: Sequence[int], positions: Sequence[int], batches: Sequence[KVSlots]) -> Tensor:
        sizes.append(len(tokens))
        return step(tokens, positions, batches)

    monkeypatch.setattr(decoder, "step", noted)
    for tokens, largest in ((10_000, len(QUESTIONS)), (1, 1)):
        sizes.clear()
        # Keys and values in every layer, and a tenth of a token, so that rounding does not lose one.
        monkeypatch.setattr(devices, "free_bytes", lambda _: int((tokens + 0.1) * decoder.token_bytes / 0.6))  # noqa: B023
        assert fitting_tokens(20_000, decoder.token_bytes, model.device) == tokens
        assert model.answer(compressed, QUESTIONS, GENERATION) == expected
        assert max(sizes) == largest
    cache = KVCache(decoder.num_layers)
    decoder.forward(decoder.embed([1]), torch.zeros(3, 1, dtype=torch.int64), cache, range(decoder.num_layers))
    stored = (part for layer in range(decoder.num_layers) for part in cache[layer].tokens)
    assert decoder.token_bytes == sum(part.nbytes for part in stored)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_out_of_memory_halves_the_batch(model: VideoModel, videos: list[CompressedVideo], most: int) -> None:
    """The batch is halved until it fits; the answers are the same, also those begun before."""
    prompts = groups(model, videos, QUESTIONS)
    expected = run_batch(model, model.language.decoder, prompts)
    decoder = NarrowDecoder(model.language.decoder, most=most)
    assert run_batch(model, decoder, prompts) == expected
    sizes = [size for size in decoder.batches if size > most]
    assert sizes == [size for size in (12, 6, 3) if size > most]
    assert max(decoder.batches[len(sizes) :]) <= most


def test_a_passing_shortage_of_memory_is_forgotten(
    model: VideoModel, videos: list[CompressedVideo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some refills as many answers as before run at once; the answers are the same."""
    monkeypatch.setattr(generation, "_REFILLS_TO_RECOVER", 2)
    prompts = groups(model, videos, MANY)
    expected = run_batch(model, model.language.decoder, prompts)
    decoder = NarrowDecoder(model.language.decoder, most=8, failures=1)
    assert run_batch(model, decoder, prompts) == expected
    assert decoder.batches[0] == CPU_DECODE_ROWS
    assert max(decoder.batches[1:8]) <= CPU_DECODE_ROWS // 2
    assert max(decoder.batches[8:]) == CPU_DECODE_ROWS


@pytest.mark.parametrize(("name", "least"), [("join", 6), ("take_grown", 3)])
def test_out_of_memory_while_slots_move(
    model: VideoModel, videos: list[CompressedVideo], monkeypatch: pytest.MonkeyPatch, name: str, least: int
) -> None:
    """Out of memory while slots grow or join loses no answer and repeats none."""
    settings = GENERATION.model_copy(update={"max_new_tokens": 100})
    # Different lengths, so that slots are full at different steps.
    asked = [f"{question} {'Or ' * (9 * index)}" for index, question in enumerate(MANY[:4])]
    prompts, method = groups(model, videos[:2], asked), getattr(KVSlots, name)

    def run(failing: int) -> tuple[list[list[Generated]], int]:
        """Make the n-th call fail, and return what is generated and the number of calls."""
        calls = 0

        def noted(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise torch.cuda.OutOfMemoryError("injected")
            return method(*arguments)

        monkeypatch.setattr(KVSlots, name, noted)
        return run_batch(model, model.language.decoder, prompts, settings=settings, endless=True), calls

    expected, number = run(0)
    assert number >= least
    for failing in range(1, number + 1):
        assert run(failing)[0] == expected


def test_a_straggler_does_not_keep_rows_empty(model: VideoModel, videos: list[CompressedVideo]) -> None:
    """Free rows beside a long answer are filled again if most questions end at once, here by their options."""
    prompts = groups(model, videos[:1], [f"{question} {'Or ' * index}" for index, question in enumerate(MANY * 2)])
    (group,) = prompts
    mixed = tuple(
        replace(prompt, options=() if index % CPU_DECODE_ROWS == 0 else ((20, 21),))
        for index, prompt in enumerate(group.prompts)
    )
    decoder = NarrowDecoder(model.language.decoder, most=99)
    (found,) = run_batch(model, decoder, [replace(group, prompts=mixed)])
    # Three answers are generated, together, not one after the other.
    lengths = [len(generated.ids) for generated in found if generated.ids]
    assert len(lengths) == 3
    assert decoder.batches[0] == 3
    assert len(decoder.batches) == max(lengths) - 1


@pytest.mark.parametrize(("endless", "bound"), [(False, 6000), (True, 3000)])
def test_what_is_in_memory_is_bounded(
    model: VideoModel, videos: list[CompressedVideo], endless: bool, bound: int
) -> None:
    """The memory of slots is bounded, whether a few of each length outlive the others or all grow.

    If all grow, slots move to larger ones, and a quarter of a tensor's slots may have left before its memory is freed.
    """
    settings = GENERATION.model_copy(update={"max_new_tokens": 140})
    asked = [f"{question} {'Or ' * (20 * (index % 8))}" for index, question in enumerate(MANY * 2)]
    decoder = NarrowDecoder(model.language.decoder, most=99)
    prompts = groups(model, videos[:2], asked)
    run_batch(model, decoder, prompts, bound, settings=settings, endless=endless)
    assert max(decoder.batches) >= 4
    assert bound / 2 < max(decoder.held) <= bound * (4 / 3 if endless else 1)


class NarrowPrefill(Decoder):
    """Runs out of memory in the prefill of more questions than `most`, and records their numbers."""

    def __init__(self, decoder: Decoder, *, most: int) -> None:
        super().__init__(decoder._model, decoder._head)
        self.most = most
        self.asked: list[int] = []

    def forward_together(
        self, hidden: Tensor, positions: Tensor, batches: Sequence[SlotTokens], layers: range
    ) -> tuple[Tensor, Tensor | None]:
        """Run the prefill and then fail, when the slots have already grown."""
        found = super().forward_together(hidden, positions, batches, layers)
        self.asked.append(sum(len(batch.counts) for batch in batches))
        if self.asked[-1] > self.most:
            raise torch.cuda.OutOfMemoryError("injected")
        return found


@pytest.mark.parametrize("most", [1, 3])
def test_out_of_memory_in_prefill_halves_it(model: VideoModel, videos: list[CompressedVideo], most: int) -> None:
    """Questions of a clip are prefilled together, fewer if these do not fit; the answers are the same."""
    prompts = groups(model, videos[:2], MANY[:5])
    expected = run_batch(model, model.language.decoder, prompts)
    decoder = NarrowPrefill(model.language.decoder, most=most)
    assert run_batch(model, decoder, prompts) == expected
    # Questions of one clip, never of two; with inner pruning each prefill runs the decoder in two parts.
    first = decoder.asked[: decoder.asked.index(most if most == 1 else 2)]
    assert first[0] == 5
    assert max(decoder.asked[len(first) :]) <= most
    wide = NarrowPrefill(model.language.decoder, most=99)
    assert run_batch(model, wide, prompts) == expected
    assert wide.asked == [5, 5, 5, 5]


def test_one_question_too_large_is_an_error(model: VideoModel, videos: list[CompressedVideo]) -> None:
    """A single question that does not fit is an error."""
    with pytest.raises(torch.cuda.OutOfMemoryError, match="injected"):
        run_batch(model, NarrowDecoder(model.language.decoder, most=0), groups(model, videos, QUESTIONS))


def test_every_question_has_a_random_stream(model: VideoModel, compressed: CompressedVideo) -> None:
    """Seed and key alone determine the answer, whatever its batch."""
    first = model.answer(compressed, QUESTIONS, WARM)
    assert model.answer(compressed, QUESTIONS[::-1], WARM) == first[::-1]
    assert model.answer(compressed, QUESTIONS, WARM.model_copy(update={"seed": 4})) != first
    keys = [f"clip/{index}" for index in range(3)]
    keyed = model.answer(compressed, [QUESTIONS[0]] * 3, WARM, keys=keys)
    assert len({answer.response for answer in keyed}) == 3
    assert model.answer(compressed, [QUESTIONS[0]], WARM, keys=keys[1:2]) == keyed[1:2]


def test_the_narrowest_draw_is_greedy(model: VideoModel, compressed: CompressedVideo) -> None:
    """With one candidate, any temperature is greedy."""
    only = GenerationConfig(max_new_tokens=12, temperature=2.0, top_k=1)
    assert model.answer(compressed, QUESTIONS, only) == model.answer(compressed, QUESTIONS, GENERATION)


def test_a_stop_text_ends_an_answer(model: VideoModel, compressed: CompressedVideo) -> None:
    """An answer ends before a stop text, also within a token; the tokens of the stop text are counted."""
    plain = model.answer(compressed, QUESTIONS, GENERATION)
    whole = next(answer for answer in plain if len(answer.response.split()) > 5)
    question = QUESTIONS[plain.index(whole)]
    words = whole.response.split()
    place = next(index for index in range(2, len(words)) if words[index] not in words[:index])
    # A blank and a part of a word, which is not a token.
    stopping = GenerationConfig(max_new_tokens=12, stop=("never", f" {words[place][:3]}"))
    (answer,) = model.answer(compressed, [question], stopping)
    assert answer.response == " ".join(words[:place])
    assert (answer.finish_reason, answer.num_generated_tokens) == ("stop", place + 1)
    unmoved = GenerationConfig(max_new_tokens=12, stop=("never",))
    assert model.answer(compressed, [question], unmoved) == [whole]


def log_likelihood(model: VideoModel, compressed: CompressedVideo, question: str, option: str) -> float:
    """Return the log-likelihood of an option in one pass over prompt and option, by the decoder alone."""
    language, decoder = model.language, model.language.decoder
    before, after = language.chat.around_video(question, GENERATION.system_prompt)
    ids = language.chat.continuation(option)
    prefix = language.prefix(before, compressed)
    suffix = language.suffix(before, (*after, *ids), compressed)
    hidden = torch.cat([prefix.embeddings, decoder.embed(suffix.ids)])
    positions = torch.cat([prefix.positions, suffix.positions], dim=1)
    states, _ = decoder.forward(hidden, positions, KVCache(decoder.num_layers), range(decoder.num_layers))
    scores = decoder.logits(states).log_softmax(dim=-1)[-len(ids) - 1 : -1]
    return float(sum(row[token] for row, token in zip(scores, ids, strict=True)))


def test_options_are_scored(model: VideoModel, compressed: CompressedVideo) -> None:
    """The likeliest option is the response; a question without options is generated."""
    options = ("bal", "bal ber", "dan nul kin")
    likelihood = GenerationConfig(max_new_tokens=12, choice="likelihood")
    asked = [options, None, options, options]
    answers = model.answer(compressed, QUESTIONS, likelihood, options=asked)
    for index in (0, 2, 3):
        scores = answers[index].option_scores
        assert scores is not None
        expected = [log_likelihood(model, compressed, QUESTIONS[index], option) for option in options]
        assert scores == pytest.approx(expected, abs=1e-4)
        assert answers[index].response == options[scores.index(max(scores))]
        assert (answers[index].finish_reason, answers[index].num_generated_tokens) == ("choice", 0)
    assert answers[1] == model.answer(compressed, QUESTIONS[1:2], GENERATION)[0]
    by_letter = model.answer(compressed, QUESTIONS, GENERATION, options=asked)
    assert by_letter == model.answer(compressed, QUESTIONS, GENERATION)


@pytest.mark.parametrize("pruning", [None, PRUNING], ids=str)
def test_an_option_scores_the_same_in_any_company(
    model: VideoModel, compressed: CompressedVideo, pruning: InnerPruningConfig | None
) -> None:
    """The prompt's last token prunes, so the other options change nothing."""
    likelihood = GenerationConfig(choice="likelihood")

    def scores(*options: str) -> Answer:
        return model.answer(compressed, QUESTIONS[:1], likelihood, options=[options], pruning=pruning)[0]

    together = scores("bal", "dan nul", "kin")
    assert together.option_scores is not None
    backwards = scores("kin", "dan nul", "bal")
    assert backwards.option_scores == together.option_scores[::-1]
    assert backwards.response == together.response
    assert replace(together.token_layers, generated=0) == replace(scores("kin").token_layers, generated=0)


def test_a_question_before_the_video_works_and_shares_nothing(compressed: CompressedVideo, tmp_path: Path) -> None:
    """A template with the question first works; the counted work shows that less is shared."""
    folder = tmp_path / "model"
    shutil.copytree(TINY.path, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    template = settings["chat_template"]
    settings["chat_template"] = template.replace("in message.content", "in message.content | reverse")
    assert settings["chat_template"] != template
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    model = load_model(str(folder), dtype="float32", device="cpu", part="language")
    together = model.answer(compressed, QUESTIONS, GENERATION, pruning=PRUNING)
    for question, answer in zip(QUESTIONS, together, strict=True):
        assert model.answer(compressed, [question], GENERATION, pruning=PRUNING) == [answer]
    # Three layers, the last two of them after the pruning.
    num_before = [answer.num_shared_tokens - answer.num_visual_tokens for answer in together]
    assert len(set(num_before)) > 1
    work = [answer.token_layers.shared for answer in together]
    assert work == [answer.num_shared_tokens + 2 * n for answer, n in zip(together, num_before, strict=True)]


def test_what_does_not_fit_the_questions_is_refused(model: VideoModel, compressed: CompressedVideo) -> None:
    """Options, keys and limits that do not fit are errors before any work."""
    likelihood = GenerationConfig(choice="likelihood")
    with pytest.raises(ConfigurationError, match="4 questions need as many options, not 1"):
        model.answer(compressed, QUESTIONS, likelihood, options=[("a", "b")])
    with pytest.raises(ConfigurationError, match="4 questions need as many keys, not 2"):
        model.answer(compressed, QUESTIONS, keys=["a", "b"])
    with pytest.raises(ConfigurationError, match="an option without text"):
        model.answer(compressed, QUESTIONS[:1], likelihood, options=[("a", "")])
    with pytest.raises(ConfigurationError, match="max_batch_tokens is 0"):
        model.answer(compressed, QUESTIONS, max_batch_tokens=0)
    with pytest.raises(ValueError, match="stop"):
        GenerationConfig(stop=("",))
