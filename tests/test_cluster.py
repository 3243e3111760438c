"""On a cluster as operators run it: jobs through Ray's job API, with tokens; a job that is lost and handed in again."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests

from pipeline.metrics import METRICS, series_names
from tests.ray_cluster import LocalCluster, local_cluster
from tests.runs import copy_videos, job, table

pytestmark = pytest.mark.slow

CLIPS, QUESTIONS = 16, 2
SAMPLES = ("moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4", "short_flash.mp4")
FLASHVID = str(Path(sys.executable).parent / "flashvid")
# What a run without trouble never says.
SILENT = {"process_deaths", "requests_repeated"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head with the CPUs of this machine's smallest relative."""
    with local_cluster(num_cpus=2) as started:
        yield started


@pytest.fixture
def job_file(sample_videos: Path, tmp_path: Path) -> Path:
    """A job over some videos, one of which is none."""
    videos = copy_videos(sample_videos, tmp_path, [])
    for index in range(CLIPS):
        (videos / f"{index:02}.mp4").write_bytes((sample_videos / SAMPLES[index % len(SAMPLES)]).read_bytes())
    (videos / "broken.mp4").write_bytes(b"no video")
    # Most of them sampled down, so that this is counted, too.
    settings = job(tmp_path, sampling={"fps": 12.0, "max_frames": 16})
    path = tmp_path / "job.json"  # JSON is YAML
    path.write_text(settings.model_dump_json(exclude_none=True))
    return path


def test_the_job_api_wants_the_token(cluster: LocalCluster) -> None:
    """Neither without one nor with another."""
    assert cluster.get("/api/jobs/", Accept="*/*").status_code == 401
    assert cluster.get("/api/jobs/", Authorization="Bearer guessed").status_code == 403
    assert cluster.get("/api/jobs/").status_code == 200


def test_a_job_that_is_handed_in_again_resumes(cluster: LocalCluster, job_file: Path) -> None:
    """As a RayJob with a `backoffLimit` does: the same entrypoint, from its start, after the driver's process died.

    On the way, a scrape of the metrics endpoint finds what rules and dashboard ask for.
    """
    output = job_file.parent / "output"
    first = cluster.submit(FLASHVID, "run", str(job_file))
    series = _scrape_until_answers(cluster, output, first)
    _driver(job_file).kill()
    assert cluster.wait(first, 60)["status"] == "FAILED"
    before = len(table(output, "answers"))
    assert 0 < before < CLIPS * QUESTIONS

    second = cluster.submit(FLASHVID, "run", str(job_file))
    while cluster.job(second)["status"] in ("PENDING", "RUNNING"):
        series |= _scrape(cluster)
        time.sleep(0.3)
    assert cluster.job(second)["status"] == "SUCCEEDED"

    answers = table(output, "answers")
    assert len({(row["video_id"], row["question_id"]) for row in answers}) == len(answers) == CLIPS * QUESTIONS
    assert [row["video_id"] for row in table(output, "failures")] == ["broken.mp4"]
    (end,) = (json.loads(path.read_text()) for path in (output / "runs").glob("*.end.json"))
    assert (end["answers_before"], end["answers_new"]) == (before, CLIPS * QUESTIONS - before)

    expected = series_names() - {name for quiet in SILENT for name in METRICS[quiet].series}
    assert expected <= series


def _driver(job_file: Path) -> psutil.Process:
    """The process that runs our job file's entrypoint; the shell that Ray starts it with is another."""
    (driver,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[-1:] == [str(job_file)] and "run" in process.info["cmdline"]
    )
    return driver


def _scrape_until_answers(cluster: LocalCluster, output: Path, job_id: str) -> set[str]:
    found: set[str] = set()
    deadline = time.monotonic() + 120
    while len(list(output.glob("answers/*/*/part-*.parquet"))) < 2:
        assert time.monotonic() < deadline, "no progress"
        assert cluster.job(job_id)["status"] in ("PENDING", "RUNNING"), cluster.get(f"/api/jobs/{job_id}/logs").text
        found |= _scrape(cluster)
        time.sleep(0.1)
    return found


def _scrape(cluster: LocalCluster) -> set[str]:
    """Names of ours on the endpoint, each with its labels complete."""
    found = set()
    for line in requests.get(cluster.metrics, timeout=10).text.splitlines():
        if (sample := re.match(r"(ray_flashvid_\w+)\{(.*)\} ", line)) is None:
            continue
        name, labels = sample.groups()
        (definition,) = (metric for metric in METRICS.values() if name in metric.series)
        assert all(f'{label}="' in labels for label in definition.labels), line
        found.add(name)
    return found
