"""Converters on small made-up files in each published format: prompts and letters as lmms-eval has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flashvid.errors import ConfigurationError
from flashvid.presets import PRESETS
from jobs.cli.main import app
from jobs.datasets import BENCHMARKS
from jobs.datasets.published import PAPER_MODELS, published_numbers
from jobs.datasets.video_mme import spoken_lines
from jobs.job_file import load_job
from pipeline.errors import InputTableError
from pipeline.inputs import Question
from pipeline.inputs.job_inputs import read_tables
from pipeline.inputs.prompts import question_prompt

VIDEO_MME = {
    "video_id": "001",
    "duration": "short",
    "domain": "Knowledge",
    "sub_category": "Law",
    "url": "https://example.org/x",
    "videoID": "xYz_-1",
    "question_id": "001-1",
    "task_type": "Counting Problem",
    "question": "How many {sets} are shown?",
    "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
    "answer": "C",
}
LONG_VIDEO_BENCH = {
    "video_id": "86Cx",
    "video_path": "86Cx.mp4",
    "question": "Which {one}?",
    "question_category": "S2E",
    "duration_group": 15,
    "id": "86Cx_0",
    "correct_choice": 1,
    "subtitle_path": "86Cx_en.json",
}
EGO_SCHEMA = {"q_uid": "a", "question": "What?", **{f"option {index}": "x" for index in range(5)}}
MLVU = {"video": "ego_1.mp4", "duration": 61.0, "question": "Where?", "question_type": "ego", "answer": "there"}


def convert(name: str, annotations: Path, to: Path, *more: str | Path) -> dict[str, list[Question]]:
    """Run the command; the questions of each video as a run would read them."""
    arguments = ["convert", name, annotations, to, "--videos", annotations.parent, *more]
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exception is None, done.exception
    job = load_job(to / "job-qwen2_5_vl.yaml")
    videos, questions = read_tables(job)
    return {video.video_id: questions.for_video(video.video_id) for video in videos}


def columns(to: Path) -> dict[str, dict[str, Any]]:
    """The videos' rows by `video_id`."""
    return {
        video.video_id: {**video.columns, "path": video.video_path}
        for video in read_tables(load_job(to / "job-llava_video.yaml"))[0]
    }


def write(path: Path, content: object) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_video_mme(tmp_path: Path) -> None:
    """The default prompt of videomme.yaml; a video once, whatever the number of its questions."""
    file = tmp_path / "test.parquet"
    pq.write_table(pa.Table.from_pylist([VIDEO_MME, {**VIDEO_MME, "question_id": "001-2"}]), file)
    (tmp_path / "xYz_-1.mkv").write_bytes(b"")
    asked = convert("video_mme", file, tmp_path / "out")["xYz_-1"]
    assert [(question.question_id, question.expected_answer, question.category) for question in asked] == [
        ("001-1", "C", "Counting Problem"),
        ("001-2", "C", "Counting Problem"),
    ]
    assert question_prompt(asked[0].render({}), asked[0].options) == (
        "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
        "Respond with only the letter (A, B, C, or D) of the correct option.\nHow many {sets} are shown?\n"
        "A. One.\nB. Two.\nC. Three.\nD. Four.\n\nAnswer with the option's letter from the given choices directly."
    )
    (video,) = columns(tmp_path / "out").values()
    assert video == {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Law",
        "path": str(tmp_path / "xYz_-1.mkv"),
    }


def test_video_mme_with_subtitles(tmp_path: Path, sample_videos: Path) -> None:
    """Those on screen at a sampled frame, as a column of the video that the question uses; braces stay braces."""
    # 72 frames at 12 a second; three of them: 0, 35, 71, at 0, 2.9 and 5.9 s.
    shutil.copyfile(sample_videos / "moving_red_disc.mp4", tmp_path / "xYz_-1.mp4")
    file = tmp_path / "test.parquet"
    pq.write_table(pa.Table.from_pylist([VIDEO_MME, {**VIDEO_MME, "question_id": "002-1", "videoID": "silent"}]), file)
    said = '<font color="white" size=".72c">{}</font>'
    entries = [
        ("00:00:00,000", "00:00:01,000", "first {x}"),
        ("00:00:01,000", "00:00:02,000", "between"),
        ("00:00:02,500", "00:00:03,000", "second"),
    ]
    srt = "\n\n".join(
        f"{number}\n{start} --> {end}\n{said.format(text)}" for number, (start, end, text) in enumerate(entries, 1)
    )
    (tmp_path / "xYz_-1.srt").write_text(srt)
    asked = convert("video_mme", file, tmp_path / "out", "--subtitles", tmp_path, "--subtitle-frames", "3")
    rows = columns(tmp_path / "out")
    assert (
        asked["xYz_-1"][0]
        .render(rows["xYz_-1"])
        .startswith("This video's subtitles are listed below: \nfirst {x}\nsecond\nSelect the best answer")
    )
    assert (
        asked["silent"][0]
        .render(rows["silent"])
        .startswith("This video's subtitles are listed below: \nNo subtitles available\nSelect")
    )
    assert asked["xYz_-1"][0].render(rows["xYz_-1"]).endswith("D. Four.\nThe best answer is:")
    assert spoken_lines("1\n01:02:03,500 --> 01:02:04,000\na\nb\n\nno entry") == [(3723.5, 3724.0, "a b")]


@pytest.mark.parametrize("kind", ["json", "parquet"])
def test_egoschema(tmp_path: Path, kind: str) -> None:
    """Both published formats give the same: options without letters, the answer as a letter where it is public."""
    options = [f"The {{person}} does {number}." for number in range(5)]
    if kind == "json":
        row = {"q_uid": "u1", "google_drive_id": "x", "question": "Why?"}
        row |= {f"option {number}": option for number, option in enumerate(options)}
        file = write(tmp_path / "questions.json", [row, {**row, "q_uid": "u2"}])
        write(tmp_path / "subset_answers.json", {"u1": 3})
    else:
        lettered = [f"{letter}. {option}" for letter, option in zip("ABCDE", options, strict=True)]
        table = {"video_idx": ["u1", "u2"], "question": ["Why?"] * 2, "option": [lettered] * 2, "answer": ["3", None]}
        file = tmp_path / "subset.parquet"
        pq.write_table(pa.table(table), file)
    asked = convert("egoschema", file, tmp_path / "out")
    assert {name: question.expected_answer for name, (question,) in asked.items()} == {"u1": "D", "u2": None}
    (question,) = asked["u1"]
    assert question_prompt(question.render({}), question.options) == (
        "Why?\nA. The {person} does 0.\nB. The {person} does 1.\nC. The {person} does 2.\nD. The {person} does 3.\n"
        "E. The {person} does 4.\nAnswer with the option's letter from the given choices directly."
    )
    assert list(convert("egoschema", file, tmp_path / "labelled", "--labelled-only")) == ["u1"]


@pytest.mark.parametrize(
    "options",
    [{"candidates": ["red", "blue"]}, {f"option{n}": o for n, o in enumerate(["red", "blue", "N/A", "N/A", "N/A"])}],
)
def test_long_video_bench(tmp_path: Path, options: dict[str, Any]) -> None:
    """Of the authors' JSON and of the Parquet file; -1 is no answer."""
    rows = [{**LONG_VIDEO_BENCH, **options}, {**LONG_VIDEO_BENCH, **options, "id": "86Cx_1", "correct_choice": -1}]
    asked = convert("long_video_bench", write(tmp_path / "lvb_val.json", rows), tmp_path / "out")["86Cx"]
    assert [(question.expected_answer, question.category) for question in asked] == [("B", "S2E"), (None, "S2E")]
    assert question_prompt(asked[0].render({}), asked[0].options) == (
        "Which {one}?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    )
    assert columns(tmp_path / "out")["86Cx"]["duration_group"] == "15"


def test_mvbench(tmp_path: Path) -> None:
    """A file per task, each with its folder of videos; a clip that two tasks ask about is one video."""
    row = {"video": "v1.mp4", "question": "What {moves}?", "candidates": ["a cube", "nothing"], "answer": "nothing"}
    write(tmp_path / "json" / "moving_count.json", [row])
    write(tmp_path / "json" / "object_existence.json", [row, {**row, "video": "v2.mp4", "answer": "a cube"}])
    asked = convert("mvbench", tmp_path / "json", tmp_path / "out")
    first = asked["clevrer/video_validation/v1.mp4"]
    assert [(question.question_id, question.expected_answer, question.category) for question in first] == [
        ("moving_count-1", "B", "moving_count"),
        ("object_existence-1", "B", "object_existence"),
    ]
    assert first[0].render({}) == "Question:What {moves}?\nOption:\n(A) a cube\n(B) nothing\nOnly give the best option."
    assert columns(tmp_path / "out")["clevrer/video_validation/v2.mp4"]["path"] == str(
        tmp_path / "clevrer/video_validation/v2.mp4"
    )
    write(tmp_path / "json" / "swimming.json", [row])
    with pytest.raises(InputTableError, match="not named after a task"):
        BENCHMARKS["mvbench"].module.convert(_source(tmp_path / "json"))


def test_mlvu(tmp_path: Path) -> None:
    """Both published formats give the same prompt; tasks without candidates are left out and counted."""
    prompt = "Where?\n(A) here\n(B) there\n\nOnly give the best option.\nBest option: ("
    write(tmp_path / "json" / "4_ego.json", [{**MLVU, "candidates": ["here", "there"]}])
    write(
        tmp_path / "json" / "9_summary.json",
        [{"video": "s.mp4", "question": "Sum up.", "question_type": "summary", "answer": "..."}],
    )
    ((name, (question,)),) = convert("mlvu", tmp_path, tmp_path / "out").items()
    assert (name, question.render({}), question.expected_answer) == ("4_ego/ego_1.mp4", prompt, "B")
    assert BENCHMARKS["mlvu"].module.convert(_source(tmp_path)).left_out == 1
    row = {"video_name": "ego_1.mp4", "question": "Where?\n(A) here\n(B) there\n", "answer": "B", "task_type": "ego"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "dev.parquet")
    (question,) = convert("mlvu", tmp_path / "dev.parquet", tmp_path / "dev")["ego_1.mp4"]
    assert (question.render({}), question.expected_answer, question.category) == (prompt, "B", "ego")


def _source(annotations: Path) -> Any:
    from jobs.datasets.converter import Source

    return Source(annotations, annotations)


def test_jobs_are_the_papers(tmp_path: Path) -> None:
    """Frames, preset and length of answers of each model; every preset exists."""
    convert(
        "mvbench",
        write(tmp_path / "moving_count.json", [{"video": "v", "question": "q", "candidates": ["x"], "answer": "x"}]),
        tmp_path / "out",
    )
    settings = {}
    for preset in PAPER_MODELS:
        job = load_job(tmp_path / "out" / f"job-{preset}.yaml")
        assert job.inner_pruning == PRESETS[preset].inner_pruning()
        assert job.compression == PRESETS[preset].compression(0.25)
        settings[preset] = (job.sampling.num_frames, job.generation.max_new_tokens)
    assert settings == {"llava_onevision": (32, 16), "llava_video": (64, 16), "qwen2_5_vl": (32, 16)}
    again = CliRunner().invoke(
        app, ["convert", "mvbench", str(tmp_path / "moving_count.json"), str(tmp_path / "out"), "--videos", "."]
    )
    assert isinstance(again.exception, ConfigurationError)


@pytest.mark.parametrize(
    ("benchmark", "preset", "num_frames", "ratio", "expected"),
    [
        ("video_mme", "llava_onevision", 32, 0.1, [58.5, 57.8]),
        ("mvbench", "llava_video", 64, 0.15, [61.9, 60.4]),
        ("egoschema", "qwen2_5_vl", 32, 1.0, [58.3]),
        ("mlvu", "qwen2_5_vl", 48, 0.333, [40.6, 45.1]),
        ("video_mme", "qwen2_5_vl", 64, 0.5, [57.0]),
        ("mlvu", "llava_video", 64, 0.1, []),
        ("video_mme", "llava_onevision", 16, 0.1, []),
        ("video_mme", None, 32, 0.1, []),
    ],
)
def test_published_numbers(
    benchmark: str, preset: str | None, num_frames: int, ratio: float, expected: list[float]
) -> None:
    """Those of the same model, frames and retention, beside all tokens."""
    job = {"preset": preset, "sampling": {"num_frames": num_frames}, "compression": {"retention_ratio": ratio}}
    assert [number.accuracy for number in published_numbers(benchmark, job)] == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("video_mme", [{"videoID": "x"}], "row 1: has no 'options'"),
        ("egoschema", {"not": "a list"}, "not a JSON list"),
        ("mlvu", [{**MLVU, "candidates": ["here"]}], "row 1: the answer 'there' is not one of"),
        (
            "mlvu",
            [{**MLVU, "task_type": "ego", "video_name": "a.mp4"}],
            "row 1: the answer 'there' is not one of 4 options",
        ),
        ("long_video_bench", [], "no question"),
        (
            "long_video_bench",
            [{**LONG_VIDEO_BENCH, "candidates": ["x", "y"], "correct_choice": 2}],
            "not one of 2 options",
        ),
        ("egoschema", [EGO_SCHEMA | {"answer": 5}], "row 1: the answer 5 is not one of 5 options"),
        ("egoschema", [EGO_SCHEMA | {"answer": "first"}], "row 1: the answer 'first' is not one of"),
        ("video_mme", [VIDEO_MME, VIDEO_MME | {"answer": "E"}], "row 2: the answer 'E' is not one of 4 options"),
        ("video_mme", [VIDEO_MME | {"options": "A. One."}], "row 1: 'options' is not a list"),
        (
            "mvbench",
            [{"video": "a.mp4", "question": "q", "candidates": "xy", "answer": "x"}],
            "'candidates' is not a list",
        ),
        ("mvbench", "[", "not a JSON list"),
    ],
)
def test_annotations_of_another_form_are_refused(tmp_path: Path, name: str, content: object, message: str) -> None:
    """With the file and the row."""
    file = write(tmp_path / "moving_count.json", content)
    done = CliRunner().invoke(app, ["convert", name, str(file), str(tmp_path / "out"), "--videos", "."])
    assert isinstance(done.exception, InputTableError)
    assert message in str(done.exception)
    assert not (tmp_path / "out").exists()
