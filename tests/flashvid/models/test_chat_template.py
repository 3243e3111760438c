"""System prompts and chat templates set by the user."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from flashvid.config import InnerPruningConfig
from flashvid.errors import ConfigurationError
from flashvid.models import CompressedVideo, GenerationConfig, VideoModel, load_model
from jobs.job_file import load_job
from tests.support.embedded_model import QUESTIONS, TIMES, TINY, video
from tests.support.tiny_families import write_llava, write_qwen3

PRUNING = InnerPruningConfig(pruning_layer=1, llm_retention_ratio=0.3)
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
PLAIN = "{{ messages[0].content[0].text }} " + VIDEO + " Q: {{ messages[1].content[1].text }} A:"
QUESTION_FIRST = "<|im_start|>user\n{{ messages[1].content[1].text }}" + VIDEO + "<|im_end|>\n<|im_start|>assistant\n"


def templated(template: str) -> GenerationConfig:
    """Return settings for short answers with a template."""
    return GenerationConfig(max_new_tokens=12, chat_template=template)


def test_the_template_is_what_the_model_reads(model: VideoModel) -> None:
    """System prompt and question are in their places before and after the video."""
    chat = model.language.chat
    assert chat.render("Who?", "Be kind.", PLAIN) == f"Be kind. {VIDEO} Q: Who? A:"
    before, after = chat.around_video("Who?", "Be kind.", PLAIN)
    assert (chat.text(before), chat.text(after)) == ("Be kind. ", " Q: Who? A:")


def test_the_models_own_template_written_out_changes_nothing(model: VideoModel, compressed: CompressedVideo) -> None:
    """Another template changes the answers."""
    own = GenerationConfig(max_new_tokens=12)
    written_out = templated(model.language.chat._template)
    assert model.answer(compressed, QUESTIONS, written_out) == model.answer(compressed, QUESTIONS, own)
    assert model.answer(compressed, QUESTIONS, templated(PLAIN)) != model.answer(compressed, QUESTIONS, own)


@pytest.mark.parametrize("pruning", [None, PRUNING], ids=str)
def test_a_question_before_the_video_works_and_shares_nothing(
    model: VideoModel, compressed: CompressedVideo, pruning: InnerPruningConfig | None
) -> None:
    """Answers equal those of questions asked alone; the text before the video is prefilled for each."""
    generation = templated(QUESTION_FIRST)
    together = model.answer(compressed, QUESTIONS, generation, pruning=pruning)
    for question, answer in zip(QUESTIONS, together, strict=True):
        assert model.answer(compressed, [question], generation, pruning=pruning) == [answer]
    assert len({answer.response for answer in together}) > 1
    assert len({answer.num_shared_tokens for answer in together}) > 1
    shared_by_all = model.answer(compressed, QUESTIONS, templated(PLAIN), pruning=pruning)
    assert len({answer.num_shared_tokens for answer in shared_by_all}) == 1


@pytest.mark.parametrize("family", ["llava", "qwen3"])
def test_every_family_takes_a_template(tmp_path: Path, family: str) -> None:
    """Each family's placeholder works before and after the question."""
    (write_llava if family == "llava" else write_qwen3)(tmp_path)
    model = load_model(str(tmp_path), dtype="float32", device="cpu")
    compressed = model.compress(model.encode(video(1), TIMES), None)
    placeholder = "<video>" if family == "llava" else VIDEO
    for template in (PLAIN, QUESTION_FIRST):
        generation = templated(template.replace(VIDEO, placeholder))
        together = model.answer(compressed, QUESTIONS, generation)
        assert together == [model.answer(compressed, [question], generation)[0] for question in QUESTIONS]
    with pytest.raises(ConfigurationError, match=r"places 0 videos, not 1: (<video>|<\|video_pad\|>) stands for one"):
        model.answer(compressed, QUESTIONS, templated(PLAIN.replace(VIDEO, "")))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (PLAIN.replace(VIDEO, ""), r"places 0 videos, not 1: <\|video_pad\|> stands for one"),
        (PLAIN + VIDEO, "places 2 videos, not 1"),
        (PLAIN + "<|image_pad|>", "places an image; questions about images are not supported yet"),
        (VIDEO + "{{ messages[0].content[0].text }}", "leaves out the question"),
        ("{% if %}", "can't be filled in"),
        ("{{ messages[7].content[0].text }}", "can't be filled in"),
        ("{{ 'user: ' + messages[1].content }}", "can't be filled in: .*str"),
        ("{{ raise_exception('no system prompt, please') }}", "can't be filled in: no system prompt, please"),
    ],
)
def test_a_template_that_can_not_work_is_one_error(
    model: VideoModel, compressed: CompressedVideo, template: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes before any work and says what is wrong."""
    monkeypatch.setattr(model.language.decoder, "forward", lambda *_, **__: pytest.fail("work was done"))
    with pytest.raises(ConfigurationError, match=message):
        model.answer(compressed, QUESTIONS, templated(template))


def test_special_tokens_in_a_question_are_text_in_any_template(model: VideoModel, compressed: CompressedVideo) -> None:
    """A placeholder in a question does not place a second video."""
    (answer,) = model.answer(compressed, ["Is <|video_pad|> or <|image_pad|> a word?"], templated(PLAIN))
    assert answer.num_visual_tokens == len(compressed.tokens)


def test_a_template_must_not_be_empty() -> None:
    """An empty template would select the model's own."""
    with pytest.raises(ValidationError, match="chat_template"):
        GenerationConfig(chat_template="")


def test_a_job_names_files_of_template_and_schema(tmp_path: Path) -> None:
    """Paths are relative to the job file; the settings, and so the fingerprint, hold the text of the files."""
    (tmp_path / "mine.jinja").write_text(PLAIN)
    (tmp_path / "scene.json").write_text('{"type": "integer"}')
    job = tmp_path / "job.yaml"
    text = (
        f"videos: v\nquestions: [What]\noutput: o\nmodel: {{name: {TINY.name}}}\n"
        "generation: {chat_template: mine.jinja, json_schema: scene.json}\n"
    )
    job.write_text(text)
    generation = load_job(job).generation
    assert (generation.chat_template, generation.json_schema) == (PLAIN, '{"type": "integer"}')
    (tmp_path / "mine.jinja").unlink()
    with pytest.raises(ConfigurationError, match=r"generation\.chat_template: mine\.jinja can't be read"):
        load_job(job)
    job.write_text(text.replace("mine.jinja", "'{{ messages }}'"))
    assert load_job(job).generation.chat_template == "{{ messages }}"
