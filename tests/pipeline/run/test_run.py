"""The main job end to end: files and questions in, Parquet out, resumable. One Ray serves all tests."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from ray.data import DataContext
from typer.testing import CliRunner

from flashvid.errors import FatalError
from jobs.cli.main import app
from pipeline.errors import QuestionChangedError, SettingsChangedError
from pipeline.run.run import run
from tests.support.runs import comparable, copy_videos, job, table
from tests.support.shared_runs import NUM_FRAMES, QUESTIONS, VIDEOS, SharedRun

pytestmark = pytest.mark.usefixtures("ray_session")


def test_every_clip_gets_every_question_once(finished: SharedRun) -> None:
    """The answers table is the cross product, and counters say one decode and one encode per clip."""
    summary, seen = finished.summary, finished.seen[-1]
    assert (summary.answers_new, summary.failures_new) == (8, 0)
    assert (summary.frames_decoded, summary.encoder_calls, summary.cache_hits) == (4 * NUM_FRAMES, 4, 0)
    assert (seen.clips_done, seen.clips_planned, seen.answers_done) == (4, 4, 8)
    answers = table(finished.output, "answers")
    assert Counter((row["video_id"], row["question"]) for row in answers) == {
        (video, question): 1 for video in VIDEOS for question in QUESTIONS
    }
    tokens = table(finished.output, "tokens")
    assert {row["video_id"] for row in tokens} == set(VIDEOS)
    assert all(len(row["thumbnails"]) == 3 for row in tokens)
    # Different videos and different questions reach the model: not all responses are the same.
    assert len({row["response"] for row in answers}) > 1


def test_a_second_run_finds_nothing_to_do(finished: SharedRun) -> None:
    """The same run again is a resume: no actor starts, nothing is added."""
    before = comparable(table(finished.output, "answers"))
    summary = run(finished.settings)
    assert (summary.clips_planned, summary.answers_new, summary.workers) == (0, 0, ())
    assert summary.answers_before == summary.answers_total == 8
    assert comparable(table(finished.output, "answers")) == before


def test_the_command_tells_a_program_what_came_of_it(finished: SharedRun, tmp_path: Path) -> None:
    """`--json`: the summary, one object on stdout; what a person reads is on stderr."""
    path = tmp_path / "job.json"
    path.write_text(finished.settings.model_dump_json(exclude_none=True))  # JSON is YAML
    done = CliRunner().invoke(app, ["run", str(path), "--limit", "2", "--json"], catch_exceptions=False)
    summary = json.loads(done.stdout)
    assert (summary["clips_total"], summary["answers_before"], summary["answers_new"]) == (2, 4, 0)
    assert "only the first 2 videos" in done.stderr


@pytest.mark.slow
def test_a_limit_is_a_trial(finished: SharedRun, sample_videos: Path, tmp_path: Path) -> None:
    """The first videos only; without it the run goes on from there, and says the same as one that had none."""
    copy_videos(sample_videos, tmp_path, VIDEOS)
    told: list[str] = []
    # Of one video that the limit leaves out, too.
    one = {"question": "Is it red?", "video_id": sorted(VIDEOS)[2]}
    trial = run(job(tmp_path, limit=2, questions=[*QUESTIONS, one]), on_notice=told.append)
    assert (trial.clips_total, trial.answers_new, told) == (2, 4, ["limit 2: only the first 2 videos"])
    assert {row["video_id"] for row in table(tmp_path / "output", "answers")} == {*sorted(VIDEOS)[:2]}
    whole = run(job(tmp_path, questions=[*QUESTIONS, one]))
    assert (whole.answers_before, whole.answers_new, whole.encoder_calls) == (4, 5, 2)
    said = [
        {(row["video_id"], row["question"], row["response"]) for row in table(folder / "output", "answers")}
        for folder in (finished.folder, tmp_path)
    ]
    assert {row for row in said[1] if row[1] in QUESTIONS} == said[0]


def test_a_new_question_costs_no_decode_and_no_encode(finished: SharedRun, tmp_path: Path) -> None:
    """Only the answer pool starts, and only the new answers are made; forking generation settings reuses tokens."""
    output = str(finished.copy_output(tmp_path))
    more = job(finished.folder, output=output, questions=[*QUESTIONS, "Which colour moves?"])
    second = run(more)
    assert (second.frames_decoded, second.encoder_calls, second.cache_hits) == (0, 0, 4)
    assert (second.answers_before, second.answers_new) == (8, 4)
    assert {worker.stage for worker in second.workers} == {"answer"}

    longer = job(finished.folder, output=output, questions=QUESTIONS, generation={"max_new_tokens": 9})
    with pytest.raises(SettingsChangedError, match=r"generation\.max_new_tokens: 6 -> 9"):
        run(longer)
    third = run(longer, fork=True)
    assert (third.frames_decoded, third.encoder_calls, third.answers_new) == (0, 0, 8)
    # The fork exists now: going on with either setting needs no flag.
    assert run(longer).answers_new == 0
    assert run(more).answers_new == 0


def test_a_changed_retention_is_refused_by_name_then_forked(
    finished: SharedRun, forked: SharedRun, tmp_path: Path
) -> None:
    """Nothing is ever mixed: the fork's answers stand in a folder of their own."""
    changed = forked.settings.model_copy(update={"output": str(finished.copy_output(tmp_path))})
    with pytest.raises(SettingsChangedError, match=r"compression\.retention_ratio: 0\.25 -> 0\.1"):
        run(changed)
    summary = forked.summary
    assert summary.frames_decoded == NUM_FRAMES * summary.clips_decoded > 0
    by_fingerprint = Counter(row["fingerprint"] for row in table(forked.output, "answers"))
    assert by_fingerprint == {finished.summary.answers_fingerprint: 8, summary.answers_fingerprint: summary.answers_new}
    assert summary.answers_fingerprint != finished.summary.answers_fingerprint


@pytest.mark.slow
def test_a_replaced_file_is_planned_again_and_said_so(sample_videos: Path, tmp_path: Path) -> None:
    """Another file under the same name: its clip is redone, its neighbour is not."""
    videos = copy_videos(sample_videos, tmp_path, VIDEOS[:2])
    run(job(tmp_path))
    (videos / VIDEOS[0]).write_bytes((sample_videos / VIDEOS[2]).read_bytes())
    notices: list[str] = []
    summary = run(job(tmp_path), on_notice=notices.append)
    assert summary.changed_sources == (VIDEOS[0],)
    assert any(VIDEOS[0] in notice and "changed" in notice for notice in notices)
    assert (summary.clips_decoded, summary.answers_new, summary.answers_before) == (1, 2, 2)


@pytest.mark.slow
def test_a_question_id_for_another_text_is_refused(sample_videos: Path, tmp_path: Path) -> None:
    """The message names the id."""
    copy_videos(sample_videos, tmp_path, VIDEOS[:1])
    run(job(tmp_path, questions=[{"question_id": "q1", "question": "What is red?"}]))
    with pytest.raises(QuestionChangedError, match="q1"):
        run(job(tmp_path, questions=[{"question_id": "q1", "question": "What is blue?"}]))


@pytest.mark.slow
def test_the_bound_on_decoded_clips_holds(sample_videos: Path, tmp_path: Path) -> None:
    """Frames of at most `max_decoded_clips` clips are in memory, whatever the size of the table."""
    videos = copy_videos(sample_videos, tmp_path, [])
    for index in range(12):
        (videos / f"{index:02}.mp4").write_bytes((sample_videos / VIDEOS[index % 3]).read_bytes())
    # Two decoders of small files run ahead of one encoder, unless they are held back.
    pools = {"decode": {"concurrency": 2}, "encode": {"concurrency": 1}, "answer": {"concurrency": 1}}
    summary = run(job(tmp_path, resources={**pools, "max_decoded_clips": 1}))
    assert summary.answers_new == 24
    assert summary.max_decoded_clips == 1
    assert summary.clips_decoded == 12


@pytest.fixture
def whole_pools(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start working when every actor is there: else a small run may end before the last one is ready."""
    monkeypatch.setattr(DataContext.get_current(), "wait_for_min_actors_s", 120)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_pools")
def test_two_encode_actors_hold_different_gpus(sample_videos: Path, tmp_path: Path) -> None:
    """Ray pins each encode actor to a GPU of its own; the answer actor needs none here."""
    copy_videos(sample_videos, tmp_path, VIDEOS[:3])
    pools = {
        "decode": {"concurrency": 1},
        "encode": {"concurrency": 2, "num_gpus": 1},
        "answer": {"concurrency": 1, "num_gpus": 0},
    }
    summary = run(job(tmp_path, resources=pools))
    assert summary.answers_new == 6
    devices = [worker.cuda_visible_devices for worker in summary.workers if worker.stage == "encode"]
    assert sorted(devices, key=str) == ["0", "1"]


@pytest.mark.usefixtures("whole_pools")
@pytest.mark.slow
def test_encode_and_answer_share_one_gpu(sample_videos: Path, tmp_path: Path) -> None:
    """Two shares that fill one device are placed on it, instead of waiting for a second."""
    copy_videos(sample_videos, tmp_path, VIDEOS[:2])
    pools = {
        "decode": {"concurrency": 1},
        "encode": {"concurrency": 2, "num_gpus": 0.6},
        "answer": {"concurrency": 1, "num_gpus": 0.4},
    }
    summary = run(job(tmp_path, resources=pools))
    assert summary.answers_new == 4
    devices = {
        stage: {w.cuda_visible_devices for w in summary.workers if w.stage == stage} for stage in ("encode", "answer")
    }
    assert devices["encode"] == {"0", "1"}
    assert devices["answer"] <= {"0", "1"}
    assert devices["answer"]


def test_a_cluster_that_is_too_small_is_said_not_waited_for(sample_videos: Path, tmp_path: Path) -> None:
    """One error with the fix, before an actor starts."""
    copy_videos(sample_videos, tmp_path, VIDEOS[:1])
    pools = {"encode": {"concurrency": 2, "num_gpus": 1}, "answer": {"concurrency": 1, "num_gpus": 1}}
    with pytest.raises(FatalError, match=r"2 GPUs .*resources\.encode"):
        run(job(tmp_path, resources=pools))


@pytest.mark.slow
@pytest.mark.parametrize("cache_dtype", [None, "int8"])
def test_a_job_without_a_cache_answers_the_same(sample_videos: Path, tmp_path: Path, cache_dtype: str | None) -> None:
    """Bit for bit, and no token is written; a later question costs decoding and encoding again, and says so."""
    copy_videos(sample_videos, tmp_path, VIDEOS[:3])
    kept = job(tmp_path, output=str(tmp_path / "kept"), cache_dtype=cache_dtype)
    once = job(tmp_path, output=str(tmp_path / "once"), cache_dtype=cache_dtype, cache="off")
    assert run(kept).answers_new == 6
    summary = run(once)
    assert (summary.answers_new, summary.failures_new, summary.encoder_calls) == (6, 0, 3)
    assert comparable(table(tmp_path / "once", "answers")) == comparable(table(tmp_path / "kept", "answers"))
    assert not (tmp_path / "once" / "tokens").exists()
    assert run(once).clips_planned == 0
    more = once.model_copy(update={"questions": job(tmp_path, questions=[*QUESTIONS, "Which colour moves?"]).questions})
    again = run(more)
    assert (again.answers_before, again.answers_new, again.encoder_calls, again.cache_hits) == (6, 3, 3, 0)
