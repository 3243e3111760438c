"""Every other family, pruning inside the LLM, options and sampling through the whole job, against the library alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flashvid.models import Answer, CompressedVideo, load_model
from flashvid.presets import FASTV_PRUNING, preset_named
from pipeline.config import JobConfig
from pipeline.errors import SettingsChangedError
from pipeline.inputs.prompts import option_letters, question_prompt
from pipeline.run.run import run
from pipeline.run.summary import RunSummary
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from pipeline.video.clip_frames import decode_clip
from tests.support.runs import comparable, copy_videos, job, table
from tests.support.tiny_families import write_llava, write_qwen3

pytestmark = pytest.mark.usefixtures("ray_session")

FAMILIES: Mapping[str, Callable[[Path], object]] = {
    "llava_onevision": lambda folder: write_llava(folder, layout="hub"),
    "llava_video": lambda folder: write_llava(
        folder, layout="original", mm_spatial_pool_mode="average", mm_newline_position="frame"
    ),
    "qwen3_vl": write_qwen3,
}
VIDEO = "moving_red_disc.mp4"
OPTIONS = ("red", "blue", "green")
QUESTIONS: list[dict[str, Any]] = [
    {"question_id": "open", "question": "What happens here?"},
    {"question_id": "choice", "question": "Which colour has the disc?", "options": OPTIONS},
]
# More than are decoded at once: Qwen3-VL's frames are as large as their number allows.
NUM_FRAMES = 20


def family_job(folder: Path, samples: Path, family: str, **settings: Any) -> JobConfig:
    """A job over one clip with two questions and a random model of a family."""
    copy_videos(samples, folder, [VIDEO])
    FAMILIES[family](folder / "model")
    return job(
        folder,
        model={"name": str(folder / "model")},
        questions=QUESTIONS,
        sampling={"num_frames": NUM_FRAMES},
        **settings,
    )


def committed(settings: JobConfig, summary: RunSummary) -> CompressedVideo:
    """The tokens of the only clip, as storage has them."""
    store = TokenStore(Storage(settings.tokens_root), summary.tokens_fingerprint)
    (key,) = store.committed()
    return store.read(key)


def asked_directly(settings: JobConfig, video: CompressedVideo, clip_id: str) -> dict[str, Answer]:
    """What the library alone answers, by `question_id`."""
    model = load_model(settings.model.name, device="cpu", part="language")
    answers = model.answer(
        video,
        [question_prompt(question["question"], question.get("options")) for question in QUESTIONS],
        settings.generation,
        pruning=settings.inner_pruning,
        options=[option_letters(question.get("options", ())) for question in QUESTIONS],
        keys=[f"{clip_id}/{question['question_id']}" for question in QUESTIONS],
    )
    return {question["question_id"]: answer for question, answer in zip(QUESTIONS, answers, strict=True)}


def assert_answers_are_the_librarys(settings: JobConfig, summary: RunSummary) -> dict[str, Answer]:
    """Row for row, in everything both report; the library's answers are returned."""
    rows = {
        row["question_id"]: row
        for row in table(Path(settings.output), "answers")
        if row["fingerprint"] == summary.answers_fingerprint
    }
    (clip_id,) = {row["clip_id"] for row in rows.values()}
    expected = asked_directly(settings, committed(settings, summary), clip_id)
    assert rows.keys() == expected.keys()
    for question_id, answer in expected.items():
        row = rows[question_id]
        for name in ("response", "finish_reason", "num_visual_tokens", "num_prompt_tokens", "num_generated_tokens"):
            assert row[name] == getattr(answer, name), name
        scores = answer.option_scores
        assert row["option_scores"] == (None if scores is None else pytest.approx(list(scores), abs=1e-6))
    return expected


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family(sample_videos: Path, tmp_path: Path, family: str) -> None:
    """Frames, tokens and answers are those of the library, deepstack included."""
    settings = family_job(tmp_path, sample_videos, family)
    summary = run(settings)
    assert (summary.frames_decoded, summary.answers_new, summary.failures_new) == (NUM_FRAMES, 2, 0)
    assert_answers_are_the_librarys(settings, summary)
    assert summary.realised_retention == summary.visual_tokens_after / summary.visual_tokens_before

    model = load_model(settings.model.name, device="cpu", part="vision")
    assert model.family == family
    clip = decode_clip(str(sample_videos / VIDEO), settings.sampling, None, None)
    direct = model.compress(model.encode(clip.frames, clip.frame_timestamps), settings.compression)
    stored = committed(settings, summary)
    assert stored.grid_thw == direct.grid_thw
    assert torch.equal(stored.indices, direct.indices)
    np.testing.assert_allclose(stored.tokens.numpy(), direct.tokens.numpy(), atol=1e-5)
    assert len(stored.deepstack) == len(direct.deepstack) == (2 if family == "qwen3_vl" else 0)
    for level, expected in zip(stored.deepstack, direct.deepstack, strict=True):
        np.testing.assert_allclose(level.numpy(), expected.numpy(), atol=1e-5)


@pytest.mark.slow
def test_inner_pruning_and_options_by_likelihood(sample_videos: Path, tmp_path: Path) -> None:
    """Pruned in the last of three layers; an answer is a letter; the summary averages over the layers."""
    pruning = {"pruning_layer": 2, "llm_retention_ratio": 0.3}
    generation = {"max_new_tokens": 6, "choice": "likelihood"}
    settings = family_job(tmp_path, sample_videos, "qwen3_vl", inner_pruning=pruning, generation=generation)
    summary = run(settings)
    assert (summary.answers_new, summary.failures_new) == (2, 0)
    answers = assert_answers_are_the_librarys(settings, summary)
    assert (answers["choice"].response in "ABC", answers["choice"].finish_reason) == (True, "choice")
    assert len(answers["choice"].option_scores or ()) == 3
    assert answers["open"].option_scores is None
    video = committed(settings, summary)
    kept, everything = len(video.tokens), len(video.assignment)
    averaged = (2 * kept + math.ceil(0.3 * kept)) / 3
    assert summary.realised_retention == pytest.approx(averaged / everything, abs=1e-9)

    # The tokens do not depend on it: without pruning, new answers are made of the same.
    plain = settings.model_copy(update={"inner_pruning": None})
    with pytest.raises(SettingsChangedError, match=r"inner_pruning\.pruning_layer: 2 -> None"):
        run(plain)
    forked = run(plain, fork=True)
    assert (forked.frames_decoded, forked.encoder_calls, forked.answers_new) == (0, 0, 2)
    assert forked.tokens_fingerprint == summary.tokens_fingerprint
    unpruned = assert_answers_are_the_librarys(plain, forked)
    assert unpruned["choice"].option_scores != answers["choice"].option_scores
    assert forked.realised_retention == kept / everything


@pytest.mark.slow
def test_an_int8_cache_and_a_method_of_the_decoder(sample_videos: Path, tmp_path: Path) -> None:
    """FastV keeps every token for any question, here as int8; answers are made from these bytes, cold or warm."""
    copy_videos(sample_videos, tmp_path, [VIDEO])
    settings = job(
        tmp_path,
        model={"name": "tiny-random"},
        questions=QUESTIONS[:1],
        sampling={"num_frames": NUM_FRAMES},
        compression={"method": "fastv"},
        cache_dtype="int8",
    )
    cold = run(settings)
    assert settings.inner_pruning == FASTV_PRUNING
    video = committed(settings, cold)
    model = load_model("tiny-random", device="cpu")
    clip = decode_clip(str(tmp_path / "videos" / VIDEO), settings.sampling, None, None)
    exact = model.encode(clip.frames, clip.frame_timestamps).features.flatten(0, 1)
    assert video.tokens.dtype == exact.dtype
    # A vision tower's last bits follow the number of threads.
    steps = exact.float().abs().amax(dim=1, keepdim=True) / 127
    assert ((video.tokens.float() - exact.float()).abs() <= 0.6 * steps + 0.01 * exact.float().abs()).all()
    assert not torch.equal(video.tokens, exact)
    warm = run(
        settings.model_copy(
            update={"questions": JobConfig.model_validate({**settings.model_dump(), "questions": QUESTIONS}).questions}
        )
    )
    assert (warm.frames_decoded, warm.encoder_calls, warm.cache_hits, warm.answers_new) == (0, 0, 1, 1)
    assert_answers_are_the_librarys(settings, warm)


@pytest.mark.slow
def test_drawn_answers_do_not_depend_on_what_is_drawn_with_them(sample_videos: Path, tmp_path: Path) -> None:
    """Each clip and question has a random stream: resumed one by one, the answers of an undisturbed run."""
    questions = [{"question_id": name, "question": "What happens here?"} for name in ("a", "b", "c")]
    generation = {"max_new_tokens": 12, "temperature": 4.0, "top_k": 200, "seed": 5}

    names = [VIDEO, "three_boxes.mp4"]
    copy_videos(sample_videos, tmp_path, names)
    # Streams hang on the clips' ids, and these on the files' paths and times: with versions they are the same anywhere.
    videos = tmp_path / "videos.csv"
    rows = ["video_id,video_path,version", *(f"{name},videos/{name},{name}-1" for name in names)]
    videos.write_text("\n".join(rows), encoding="utf-8")
    table_of = {"videos": str(videos), "source_id_column": "version"}

    def drawn(output: str, asked: list[dict[str, str]]) -> list[dict[str, Any]]:
        run(job(tmp_path, output=str(tmp_path / output), questions=asked, generation=generation, **table_of))
        return table(tmp_path / output, "answers")

    undisturbed = drawn("undisturbed", questions)
    # One text, but two clips with three streams each.
    assert len({row["response"] for row in undisturbed}) == 6
    assert len(drawn("resumed", questions[1:2])) == 2
    assert comparable(drawn("resumed", questions[::-1])) == comparable(undisturbed)


def test_a_preset_is_recorded_as_what_it_resolves_to(tmp_path: Path) -> None:
    """And one of another family is used, but not without a word."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/no_video.mp4").write_text("nothing to encode here")
    notices: list[str] = []
    settings = job(
        tmp_path, preset="llava_video", compression={"retention_ratio": 0.1}, inner_pruning={"pruning_layer": 2}
    )
    summary = run(settings, on_notice=notices.append)
    assert summary.failures_new == 1
    assert notices == ["preset llava_video was published for a model family other than this model's, qwen2_5_vl"]
    record = json.loads((tmp_path / f"output/runs/{summary.run_id}.json").read_text())
    assert record["job"]["preset"] == "llava_video"
    assert record["job"]["compression"] == preset_named("llava_video").compression(0.1).model_dump()
    assert record["job"]["inner_pruning"] == {"pruning_layer": 2, "llm_retention_ratio": 0.3}
    assert record["answers_settings"]["inner_pruning.pruning_layer"] == 2
    assert not any(name.startswith("inner_pruning") for name in record["tokens_settings"])
