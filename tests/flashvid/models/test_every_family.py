"""Questions without a video, scores, pruning and precision of each family, checked against stock transformers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

from flashvid.config import InnerPruningConfig
from flashvid.errors import ConfigurationError
from flashvid.models import (
    ClipQuestions,
    CompressedVideo,
    GenerationConfig,
    VideoModel,
    check_answering,
    load_model,
    load_preprocessor,
    resolve_model,
)
from pipeline.run.run import run
from tests.support.embedded_model import QUARTER, TIMES, TINY, video
from tests.support.helpers import job
from tests.support.tiny_families import write_llava, write_qwen3

NUM_LAYERS = 3
SHORT = GenerationConfig(max_new_tokens=8, system_prompt="Be brief.")
ASKED = ("What is a video?", "How many?")
TEXTS = ("bal", "dan nul kin", "A")


def write_tiny(folder: Path) -> Any:
    """Write the embedded Qwen2.5-VL and return the stock model."""
    shutil.copytree(TINY.path, folder)
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)


WRITERS: Mapping[str, Callable[[Path], Any]] = {
    "llava_onevision": write_llava,
    "llava_video": lambda folder: write_llava(folder, mm_spatial_pool_mode="average", mm_newline_position="frame"),
    "qwen2_5_vl": write_tiny,
    "qwen3_vl": write_qwen3,
}


@dataclass(frozen=True, eq=False)
class Subject:
    """A small model of a family, as stock model and as our handle, with a compressed video."""

    folder: Path
    stock: Any
    model: VideoModel
    compressed: CompressedVideo

    @property
    def first_pruning_layer(self) -> int:
        """The first layer that may prune."""
        return max(1, len(self.compressed.deepstack))

    def prompt(self, question: str) -> list[int]:
        """Return the ids of a question without a video, by transformers alone."""
        tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
        turns = [("system", SHORT.system_prompt), ("user", question)]
        messages = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.ids(text)

    def ids(self, text: str) -> list[int]:
        """Return the ids of a text."""
        tokenizer: Any = AutoTokenizer.from_pretrained(self.folder)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.fixture(scope="module", params=list(WRITERS))
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Return the subject of each family in turn."""
    folder = tmp_path_factory.mktemp(request.param) / "model"
    stock = WRITERS[request.param](folder)
    model = load_model(str(folder), dtype="float32", device="cpu")
    assert model.family == request.param
    return Subject(folder, stock, model, model.compress(model.encode(video(0), TIMES), QUARTER))


@pytest.mark.parametrize("shape", [(6, 120, 220), (5, 64, 300), (1, 90, 90)])
def test_token_grid_is_that_of_encoding(subject: Subject, shape: tuple[int, int, int]) -> None:
    """The number and the size of the frames determine the grid without encoding."""
    preprocessor = load_preprocessor(str(subject.folder))
    frames = preprocessor.for_video(shape[0]).resize(video(1, *shape))
    visual = subject.model.encode(frames, np.arange(shape[0]))
    assert preprocessor.token_grid(*shape) == (len(visual.features), *visual.grid_hw)


@pytest.mark.parametrize("pruned", [False, True])
def test_a_question_without_a_video(subject: Subject, pruned: bool) -> None:
    """Answers are those of stock `generate`; pruning has nothing to prune."""
    pruning = InnerPruningConfig(pruning_layer=subject.first_pruning_layer) if pruned else None
    answers = subject.model.answer(None, ASKED, SHORT, pruning=pruning)
    chat = subject.model.language.chat
    for question, answer in zip(ASKED, answers, strict=True):
        prompt = torch.tensor([subject.prompt(question)])
        expected = subject.stock.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=SHORT.max_new_tokens,
            do_sample=False,
            eos_token_id=sorted(chat.end_tokens),
        )[0, prompt.shape[1] :]
        assert answer.response == chat.decode(expected.tolist())
        assert answer.num_generated_tokens == len(expected)
        assert answer.num_prompt_tokens == prompt.shape[1]
        assert (answer.num_visual_tokens, answer.num_shared_tokens, answer.token_layers.visual) == (0, 0, 0)


def test_with_and_without_a_video_in_one_batch(subject: Subject) -> None:
    """Neither question changes the other's answer."""
    clips = [ClipQuestions(subject.compressed, ASKED), ClipQuestions(None, ASKED)]
    together = subject.model.answer_many(clips, SHORT)
    assert together == [subject.model.answer(clip.compressed, clip.questions, SHORT) for clip in clips]
    assert together[0][0].num_visual_tokens == len(subject.compressed.tokens)


def test_scores_are_stock_forwards(subject: Subject) -> None:
    """Log-likelihoods match stock forward passes token by token, and their sums are the scores of options."""
    (found, alone) = subject.model.score(None, ASKED, [TEXTS, TEXTS[1:2]], SHORT)
    prompt = subject.prompt(ASKED[0])
    for text, scored in zip(TEXTS, found, strict=True):
        ids = subject.ids(text)
        with torch.no_grad():
            logits = subject.stock(input_ids=torch.tensor([prompt + ids])).logits[0]
        rows = logits[len(prompt) - 1 : -1].log_softmax(dim=-1)
        expected = [float(row[token]) for row, token in zip(rows, ids, strict=True)]
        assert list(scored.ids) == ids
        assert scored.log_likelihoods == pytest.approx(expected, abs=1e-4)
        assert scored.log_likelihood == pytest.approx(sum(expected), abs=1e-3)
    assert len(alone) == 1
    likelihood = SHORT.model_copy(update={"choice": "likelihood"})
    (answer,) = subject.model.answer(subject.compressed, ASKED[:1], likelihood, options=[TEXTS])
    (with_video,) = subject.model.score(subject.compressed, ASKED[:1], [TEXTS], SHORT)
    assert answer.option_scores == tuple(scored.log_likelihood for scored in with_video)
    assert [scored.log_likelihood for scored in with_video] != [scored.log_likelihood for scored in found]


def test_what_can_not_be_scored(subject: Subject) -> None:
    """Questions without texts, empty texts and texts for other questions are refused."""
    for texts, message in (
        ([TEXTS, ()], "How many.*no continuation to score"),
        ([TEXTS, [""]], "without text can't be scored"),
        ([TEXTS], "2 questions need as many options, not 1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            subject.model.score(None, ASKED, texts)


def test_any_pruning_layer(subject: Subject) -> None:
    """Every layer from the first allowed one on prunes as counted; after the last layer nothing is pruned."""
    plain = subject.model.answer(subject.compressed, ASKED, SHORT)
    kept = len(subject.compressed.tokens)
    assert all(answer.token_layers.visual == NUM_LAYERS * kept for answer in plain)
    for layer in range(subject.first_pruning_layer, NUM_LAYERS + 2):
        pruning = InnerPruningConfig(pruning_layer=layer, llm_retention_ratio=0.3)
        answers = subject.model.answer(subject.compressed, ASKED, SHORT, pruning=pruning)
        if layer >= NUM_LAYERS:
            assert answers == plain
            continue
        for answer in answers:
            behind = (answer.token_layers.visual - layer * kept) / (NUM_LAYERS - layer)
            # LLaVA-Video's newlines are prunable, and each kept newline replaces a visual token.
            newlines = len(TIMES) if subject.model.family == "llava_video" else 0
            most = math.ceil((kept + newlines) * 0.3)
            assert most - newlines <= behind <= most


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bfloat16(subject: Subject, attention: str) -> None:
    """Answers with pruning do not depend on other questions, and scores are near those of float32."""
    model = load_model(str(subject.folder), dtype="bfloat16", device="cpu", attn_implementation=attention)
    compressed = model.compress(model.encode(video(0), TIMES), QUARTER)
    assert compressed.tokens.dtype == torch.bfloat16
    pruning = InnerPruningConfig(pruning_layer=subject.first_pruning_layer)
    together = model.answer(compressed, ASKED, SHORT, pruning=pruning)
    assert together == [model.answer(compressed, [question], SHORT, pruning=pruning)[0] for question in ASKED]
    rough, exact = (one.score(None, ASKED[:1], [TEXTS], SHORT)[0] for one in (model, subject.model))
    for low, high in zip(rough, exact, strict=True):
        assert low.log_likelihoods == pytest.approx(high.log_likelihoods, rel=0.1, abs=0.5)


def test_families_in_one_process(subject: Subject) -> None:
    """The embedded model answers the same before and after another model works."""
    tiny = load_model(TINY, dtype="float32", device="cpu")
    frames = video(1)
    one = tiny.compress(tiny.encode(frames, TIMES), QUARTER)
    first = tiny.answer(one, ASKED, SHORT)
    before = subject.model.answer(subject.compressed, ASKED, SHORT)
    again = tiny.compress(tiny.encode(frames, TIMES), QUARTER)
    assert torch.equal(again.tokens, one.tokens)
    assert tiny.answer(again, ASKED, SHORT) == first
    assert subject.model.answer(subject.compressed, ASKED, SHORT) == before


def test_settings_are_refused_without_weights(subject: Subject, tmp_path: Path) -> None:
    """Configuration and tokenizer suffice: the weights are deleted here."""
    shutil.copytree(subject.folder, tmp_path / "model")
    source = resolve_model(str(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").unlink()
    check_answering(source, SHORT, None)
    for layer in range(subject.first_pruning_layer, NUM_LAYERS):
        check_answering(source, SHORT, InnerPruningConfig(pruning_layer=layer))
    with pytest.raises(ConfigurationError, match=r"pruning_layer 3 leaves no layer to prune for, of this model's 3"):
        check_answering(source, SHORT, InnerPruningConfig(pruning_layer=NUM_LAYERS))
    if subject.first_pruning_layer > 1:
        with pytest.raises(
            ConfigurationError,
            match="pruning_layer 1 is too early: this model adds visual features after its first 2 layers",
        ):
            check_answering(source, SHORT, InnerPruningConfig(pruning_layer=1))
    placeholder = subject.model.language.chat._video
    for generation, message in (
        ({"chat_template": "{{ messages[1].content[1].text }}"}, "places 0 videos, not 1"),
        ({"chat_template": "{% for"}, "can't be filled in"),
        ({"chat_template": placeholder}, "leaves out the question"),
        ({"system_prompt": f"Look: {placeholder}"}, "places 2 videos, not 1"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            check_answering(source, GenerationConfig(**generation), None)


def test_a_job_with_such_settings_starts_nothing(subject: Subject, tmp_path: Path) -> None:
    """The run touches neither its output nor its videos, which do not exist."""
    output = tmp_path / "output"
    settings = {"videos": str(tmp_path / "none"), "output": str(output), "model": {"name": str(subject.folder)}}
    for wrong, message in (
        ({"inner_pruning": {"pruning_layer": 20}}, "pruning_layer 20 leaves no layer"),
        ({"generation": {"chat_template": "What?"}}, "the chat template"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            run(job(**settings, **wrong))
    assert not output.exists()


def test_a_template_that_places_a_video_in_spite(subject: Subject) -> None:
    """A question without a video has none to place."""
    template = "{{ messages[1].content[0].text }}" + subject.model.language.chat._video
    with pytest.raises(ConfigurationError, match="places 1 videos, not 0"):
        subject.model.answer(None, ASKED, GenerationConfig(chat_template=template))
