"""`flashvid submit` and its sisters on a real Ray head with tokens: handed in, watched, stopped, handed in again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.care.status import output_status
from pipeline.store.storage import Storage
from tests.support.ray_cluster import LocalCluster, local_cluster
from tests.support.runs import copy_videos, job, table

pytestmark = pytest.mark.slow

# Enough work that it is not over before the commands in between have started, which takes them seconds.
CLIPS, QUESTIONS = 60, 2
BIN = Path(sys.executable).parent


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    """A head whose jobs find this Python, as in an image, and none of our code."""
    monkeypatch.setenv("PATH", f"{BIN}{os.pathsep}{os.environ['PATH']}")
    with local_cluster(num_cpus=2) as started:
        yield started


def flashvid(cluster: LocalCluster, *arguments: str | Path) -> str:
    """What a command prints that has to succeed; a head that has just started may not take jobs yet (exit code 3)."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(
            [BIN / "flashvid", *map(str, arguments)],
            env={**cluster.environment, "RAY_ADDRESS": cluster.dashboard},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode != 3 or time.monotonic() > deadline:
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout


def wait_for_answers(cluster: LocalCluster, output: Path, job_id: str) -> None:
    """Until some are committed."""
    deadline = time.monotonic() + 240
    while not table(output, "answers"):
        assert time.monotonic() < deadline, flashvid(cluster, "logs", job_id)
        assert cluster.status(job_id) in ("PENDING", "RUNNING"), flashvid(cluster, "logs", job_id)
        time.sleep(0.2)


def test_submitted_stopped_and_submitted_again(cluster: LocalCluster, sample_videos: Path, tmp_path: Path) -> None:
    """The tables are complete; the status is known with the cluster and without it; no row reads what it may not."""
    videos = copy_videos(sample_videos, tmp_path, [])
    for index in range(CLIPS):
        (videos / f"{index:02}.mp4").write_bytes((sample_videos / "three_boxes.mp4").read_bytes())
    outside = tmp_path.parent / f"{tmp_path.name}-outside.mp4"
    outside.write_bytes((sample_videos / "three_boxes.mp4").read_bytes())
    rows = [f"{index:02},videos/{index:02}.mp4" for index in range(CLIPS)]
    (tmp_path / "videos.csv").write_text("\n".join(["video_id,video_path", *rows, f"secret,{outside}"]) + "\n")
    settings = job(
        tmp_path, videos=str(tmp_path / "videos.csv"), sampling={"num_frames": 16}, generation={"max_new_tokens": 128}
    )
    job_file = tmp_path / "job.json"
    job_file.write_text(settings.model_dump_json(exclude_unset=True))
    output = tmp_path / "output"

    def submitted() -> str:
        done = flashvid(cluster, "submit", job_file, "--shared", tmp_path, "--json")
        return str(json.loads(done)["job_id"])

    def status(*more: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(flashvid(cluster, "status", output, "--json", *more))
        return found

    first = submitted()
    wait_for_answers(cluster, output, first)
    assert output_status(Storage(str(output))).state == "running"
    flashvid(cluster, "stop", first)
    before = status("--address", cluster.dashboard)
    assert (before["state"], before["jobs"][0]["status"]) == ("stopped", "STOPPED")
    assert 0 < before["answers"] < CLIPS * QUESTIONS
    assert "what is committed stays" in flashvid(cluster, "logs", first)

    second = submitted()
    flashvid(cluster, "logs", second, "--follow")
    assert cluster.wait(second, 60) == "SUCCEEDED", flashvid(cluster, "logs", second)
    listed = json.loads(flashvid(cluster, "list", "--json"))["jobs"]
    assert [found["job_id"] for found in listed] == [second, first]
    assert {found["output"] for found in listed} == {str(output)}

    answers = table(output, "answers")
    assert len({(row["video_id"], row["question_id"]) for row in answers}) == len(answers) == CLIPS * QUESTIONS
    (refused,) = table(output, "failures")
    assert (refused["video_id"], refused["error_type"]) == ("secret", "InputRowError")
    assert "allowed_roots" in refused["error_message"]
    ended = status()
    assert (ended["state"], ended["answers"], ended["runs"]) == ("completed", CLIPS * QUESTIONS, 2)
    assert ended["summary"]["answers_before"] == before["answers"]
