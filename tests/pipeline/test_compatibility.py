"""Outputs of earlier versions are read and continued; those of later formats are refused (docs/compatibility.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.care.export import export_answers
from pipeline.care.gc import find_garbage
from pipeline.care.verify import verify
from pipeline.config import JobConfig
from pipeline.errors import NewerFormatError
from pipeline.plan.plan import plan
from pipeline.plan.probe import ProbeTable
from pipeline.run.run import run
from pipeline.store.ledger import Ledger
from pipeline.store.results import Results
from pipeline.store.run_records import FORMAT_VERSION, RunRecords
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore
from tests.support.outputs import row_clips
from tests.support.runs import job

DATA = Path(__file__).parents[1] / "data"
VIDEOS = ("moving_red_disc", "short_flash", "broken")
QUESTIONS = (
    {"question": "What happens here?"},
    {"question_id": "colour", "question": "Which colour is it?", "options": ["red", "blue"], "answer": "red"},
)


@pytest.fixture
def output(tmp_path: Path) -> Storage:
    """What version 0.1.0 wrote."""
    return Storage(str(shutil.copytree(DATA / "output-format-1", tmp_path / "output")))


@pytest.fixture
def same_job(tmp_path: Path) -> JobConfig:
    """The job it was asked to do, its videos as they were: their bytes are known by a column of checksums."""
    rows = ["video_id,video_path,sha256", *(f"{name},{name}.mp4,sha-of-{name}" for name in VIDEOS)]
    (tmp_path / "videos.csv").write_text("\n".join(rows))
    for name in VIDEOS:
        (tmp_path / f"{name}.mp4").touch()
    return job(
        tmp_path,
        videos=str(tmp_path / "videos.csv"),
        source_id_column="sha256",
        questions=list(QUESTIONS),
        sampling={"num_frames": 4, "min_pixels": 4096, "max_pixels": 8192},
    )


def test_there_is_an_output_of_every_format() -> None:
    """A new number comes with a folder."""
    assert {path.name for path in DATA.glob("output-format-*")} == {
        f"output-format-{number}" for number in range(1, FORMAT_VERSION + 1)
    }


def test_results_are_read(output: Storage) -> None:
    """Every table of format 1, as it was written."""
    results = Results(output)
    assert results.job.model.name == "tiny-random"
    answers = results.answers()
    assert {(row["video_id"], row["question_id"]): row["response"] for row in answers} == {
        ("moving_red_disc", "6bbdc29b4608054a"): "pur gul zol ser vor ker",
        ("moving_red_disc", "colour"): "ril ran non far min for",
        ("short_flash", "6bbdc29b4608054a"): "ral bal fel pir kon for",
        ("short_flash", "colour"): "ran non far kul lun",
    }
    assert [row["options"] for row in answers] == [None, ["red", "blue"]] * 2
    (failure,) = results.failures(answers)
    assert (failure["video_id"], failure["stage"], failure["error_kind"]) == ("broken", "probe", "permanent")
    assert ProbeTable(output).lengths()["duration_s"].to_pylist() == [6.0, 6.0]
    tokens = TokenStore(output, results.record["tokens_fingerprint"])
    video = tokens.read("712cef22936067a97c0eb3886debec94")
    assert (video.tokens.dtype, video.tokens.shape) == (torch.bfloat16, (14, 96))
    assert torch.isfinite(video.tokens.float()).all()
    assert video.grid_thw[0] == 2
    assert np.all(np.diff(video.frame_timestamps) > 0)


def test_its_caretakers_find_nothing_to_do(output: Storage, tmp_path: Path) -> None:
    """It verifies, has no garbage, and exports."""
    assert verify(output, [output]).findings == ()
    assert find_garbage(output).pieces == ()
    copy = tmp_path / "copy"
    export_answers(output, Storage(str(copy)))
    assert list(copy.rglob("*.parquet"))


def test_work_that_is_done_stays_done(output: Storage, same_job: JobConfig) -> None:
    """Keys are derived as they were: the same job finds its answers, its failure and its tokens."""
    (record,) = RunRecords(output).all()
    ledger = Ledger(output, record["answers_fingerprint"])
    clips, questions = row_clips(same_job)
    tokens = TokenStore(output, record["tokens_fingerprint"]).committed()
    todo = plan(
        clips,
        questions,
        committed_tokens=tokens,
        answered=ledger.answer_keys(),
        failed=ledger.failure_keys(),
        max_attempts=3,
    )
    assert (todo.counts.answers_done, todo.counts.answers_planned, todo.counts.answers_exhausted) == (4, 0, 2)
    # And had they not been answered, nothing would be decoded.
    again = plan(clips, questions, committed_tokens=tokens, answered=[], failed=ledger.failure_keys(), max_attempts=3)
    assert sorted(clip.video_id for clip in again.cached) == ["moving_red_disc", "short_flash"]
    assert again.to_encode == ()


def test_a_newer_format_is_refused_by_every_command(output: Storage, same_job: JobConfig) -> None:
    """One message, that says what to install; nothing is written."""
    (name,) = (name for name in output.names("runs") if not name.endswith(".end.json"))
    record = json.loads(output.read(name))
    record |= {"format_version": FORMAT_VERSION + 1, "run_id": "20990101T000000-00000000"}
    record["packages"]["flashvid-pipeline"] = "7.0.0"
    output.create("runs/20990101T000000-00000000.json", json.dumps(record).encode())
    before = output.names("")
    for command in (
        lambda: run(same_job),
        lambda: Results(output),
        lambda: verify(output, [output]),
        lambda: find_garbage(output),
        lambda: export_answers(output, Storage(f"{output.url}-copy")),
    ):
        with pytest.raises(
            NewerFormatError, match=r"flashvid-pipeline 7\.0\.0 in format 2.*install 7\.0\.0 or a later"
        ):
            command()
    assert output.names("") == before
