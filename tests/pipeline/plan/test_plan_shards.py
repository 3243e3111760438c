"""Planning in shards finds what planning everything at once finds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import ray

from flashvid.models import resolve_model
from jobs.lab.planning import fill, load_job
from pipeline.clip import Clip, Failure
from pipeline.config import CommitConfig, JobConfig
from pipeline.errors import QuestionChangedError
from pipeline.inputs.job_inputs import read_tables
from pipeline.plan.plan import Plan, PlanCounts
from pipeline.plan.planner import Planner, RunPlan
from pipeline.plan.shards import CommittedTokens, num_shards
from pipeline.run.committer import Committer
from pipeline.run.run import run
from pipeline.store.context import RunContext
from pipeline.store.keys import content_key
from pipeline.store.lease import Lease
from tests.support.helpers import clip
from tests.support.runs import comparable, copy_videos, job, table

NUM_VIDEOS, NUM_QUESTIONS = 300, 4


@pytest.fixture(scope="module")
def half_done(tmp_path_factory: pytest.TempPathFactory) -> JobConfig:
    """A job of which half the questions are answered, and every second video's tokens are committed."""
    folder = tmp_path_factory.mktemp("half-done")
    fill(folder, NUM_VIDEOS, NUM_QUESTIONS)
    return load_job(folder)


def planned(of_job: JobConfig, rows_per_shard: int) -> RunPlan:
    """What a run of the job would find, in shards of about so many rows; Ray is there if they are several."""
    run_of_job = RunContext.of(of_job, resolve_model(of_job.model.name))
    tables = read_tables(of_job)
    failed: list[tuple[Clip, Failure]] = []
    connected: list[bool] = []
    planner = Planner(
        run_of_job,
        on_failure=lambda *failure: failed.append(failure),
        connect=lambda: connected.append(ray.is_initialized()),
        rows_per_shard=rows_per_shard,
    )
    todo = planner.plan(*tables)
    assert all(connected)
    assert bool(connected) == (rows_per_shard < len(tables[0]))
    assert failed == []
    return todo


def clips(todo: RunPlan, kind: str) -> set[tuple[str, tuple[str, ...]]]:
    """Clips of all shards with the questions that they still need."""
    found = [clip for shard in todo.shards for clip in getattr(shard.fetch(), kind)]
    assert len({clip.clip_id for clip in found}) == len(found)
    return {(clip.clip_id, clip.question_ids) for clip in found}


@pytest.mark.usefixtures("ray_session")
def test_shards_together_are_the_whole(half_done: JobConfig) -> None:
    """Clips, questions and numbers: one shard in this process, and several as Ray tasks."""
    whole, parts = planned(half_done, NUM_VIDEOS), planned(half_done, 40)
    assert (len(whole.shards), len(parts.shards)) == (1, 8)
    assert isinstance(whole.shards[0].held, Plan)
    assert all(isinstance(shard.held, ray.ObjectRef) for shard in parts.shards)
    assert parts.counts == whole.counts
    assert whole.counts == PlanCounts(
        clips_total=NUM_VIDEOS,
        clips_to_encode=NUM_VIDEOS // 2,
        clips_cached=NUM_VIDEOS // 2,
        answers_total=NUM_VIDEOS * NUM_QUESTIONS,
        answers_done=NUM_VIDEOS * NUM_QUESTIONS // 2,
        answers_planned=NUM_VIDEOS * NUM_QUESTIONS // 2,
    )
    for kind in ("to_encode", "cached"):
        assert clips(parts, kind) == clips(whole, kind)


@pytest.mark.usefixtures("ray_session")
def test_what_stops_a_shard_stops_the_run(half_done: JobConfig) -> None:
    """With the error that the task raised, not Ray's."""
    first, *others = half_done.questions
    changed = half_done.model_copy(update={"questions": (first.model_copy(update={"question": "Why?"}), *others)})
    for rows_per_shard in (NUM_VIDEOS, 150):
        with pytest.raises(QuestionChangedError, match="question_id 'q0'") as caught:
            planned(changed, rows_per_shard)
        assert type(caught.value) is QuestionChangedError


@pytest.mark.usefixtures("ray_session")
def test_failures_are_counted_in_their_shard(half_done: JobConfig) -> None:
    """A clip that failed for good is exhausted, whichever shard it is in."""
    (row,) = [row for row in read_tables(half_done)[0] if row.video_id == "video-0000007"]
    todo = planned(half_done, NUM_VIDEOS)
    (found,) = [c for s in todo.shards for c in s.fetch().to_encode if c.video_id == row.video_id]
    run_of_job = RunContext.of(half_done, resolve_model(half_done.model.name))
    lease = Lease.acquire(run_of_job.storage, run_of_job.run_id)
    committer = Committer(run_of_job.ledger, lease, CommitConfig())
    committer.add_failure(found, Failure("decode", "UnreadableVideoError", "permanent", "no video", ""))
    committer.flush()
    lease.release()
    for rows_per_shard in (NUM_VIDEOS, 40):
        counts = planned(half_done, rows_per_shard).counts
        assert (counts.answers_exhausted, counts.clips_to_encode) == (NUM_QUESTIONS // 2, NUM_VIDEOS // 2 - 1)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_run_in_shards_answers_what_a_small_one_does(sample_videos: Path, tmp_path: Path) -> None:
    """20,000 rows, of which three are asked something: their windows come out of Ray's object store."""
    names = ("moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4")
    videos = copy_videos(sample_videos, tmp_path, names)
    questions = [
        {"question_id": f"{name}-{number}", "question": text, "video_id": name}
        for name in names
        for number, text in enumerate(("What happens?", "How many?"))
    ]
    expected = []
    for folder, num_rows in ((tmp_path / "small", 3), (tmp_path / "large", 20_000)):
        folder.mkdir()
        with (folder / "videos.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["video_id", "video_path"])
            rows.writerows((name, videos / name) for name in names)
            rows.writerows((f"other-{number}", videos / names[0]) for number in range(num_rows - 3))
        (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
        of_folder = job(
            folder, videos=str(folder / "videos.csv"), questions=str(folder / "questions.jsonl"), window_s=2.0
        )
        summary = run(of_folder)
        assert summary.failures_new == 0
        assert run(of_folder).clips_planned == 0
        expected.append(comparable(table(folder / "output", "answers")))
    assert expected[0] == expected[1]
    assert len(expected[0]) >= 6


def test_the_number_of_shards() -> None:
    """A power of two, so that a shard is a whole number of those on storage, and no more than these."""
    assert [num_shards(rows, 10) for rows in (1, 10, 11, 20, 21, 50, 10_000)] == [1, 1, 2, 2, 4, 8, 256]


def test_tokens_are_found_by_bisection() -> None:
    """Exactly the keys that are listed."""
    keys = [content_key(f"source-{number}", None, None) for number in range(1000)]
    found = CommittedTokens(np.sort(np.array(keys[::2], dtype="S32")))
    assert [key in found for key in keys] == [number % 2 == 0 for number in range(1000)]
    assert clip("a").content_key not in found
    assert keys[0] not in CommittedTokens(np.array([], dtype="S32"))
