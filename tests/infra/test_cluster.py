"""On a cluster as operators run it: S3, a head without work, two workers, jobs through Ray's job API with tokens."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds
import pytest

from pipeline.run.metrics import METRICS, series_names
from tests.support.runs import job
from tests.support.stand_in_cluster import StandIn, stand_in

pytestmark = pytest.mark.slow

CLIPS, QUESTIONS = 16, 2
SAMPLES = ("moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4", "short_flash.mp4")
FLASHVID = str(Path(sys.executable).parent / "flashvid")
# What a run without trouble never says.
SILENT = {"process_deaths", "requests_repeated"}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """One for all tests."""
    with stand_in(tmp_path_factory.mktemp("cluster") / "stand-in") as started:
        yield started


def test_the_demo_job(cluster: StandIn) -> None:
    """`up` submitted it; it ends with an answer to every question, and the head has worked on none."""
    assert cluster.wait(cluster.demo_job, 180) == "SUCCEEDED", cluster.logs(cluster.demo_job)
    output = "flashvid/demo/output"
    answers, questions = _rows(cluster, output, "answers"), (cluster.folder / "samples" / "questions.csv").read_text()
    assert len(answers) == len(questions.splitlines()) - 1 == 12
    end = _end(cluster, output)
    assert {worker["stage"] for worker in end["workers"]} == {"decode", "encode", "answer"}
    assert {worker["node_id"] for worker in end["workers"]} <= cluster.worker_nodes()
    assert len(cluster.worker_nodes()) == 2


def test_no_node_has_gpus(cluster: StandIn) -> None:
    """Nor would it on a machine with one, which is asked for by nobody here: there each would count it as its own."""
    assert [node["resources_total"].get("CPU", 0) for node in cluster.nodes() if not node["is_head_node"]] == [1, 1]
    assert [node["resources_total"].get("GPU", 0) for node in cluster.nodes()] == [0, 0, 0]
    assert ["--num-gpus=0" in command for command in cluster.node_commands()] == [True, True, True]


def test_the_job_api_wants_the_token(cluster: StandIn) -> None:
    """Neither without one nor with another; and nobody else on this machine can read it."""
    assert cluster.get("/api/jobs/", Accept="*/*").status_code == 401
    assert cluster.get("/api/jobs/", Authorization="Bearer guessed").status_code == 403
    assert cluster.get("/api/jobs/").status_code == 200
    assert (cluster.folder / "state.json").stat().st_mode & 0o077 == 0


def test_a_job_that_is_handed_in_again_resumes(cluster: StandIn, sample_videos: Path, tmp_path: Path) -> None:
    """As a RayJob with a `backoffLimit` does: the same entrypoint, from its start, after the driver's process died.

    On the way, scrapes of the metrics endpoints find what rules and dashboard ask for.
    """
    store, output, job_file = cluster.filesystem(), "flashvid/resumed/output", tmp_path / "job.json"
    for index in range(CLIPS):
        store.put_file(str(sample_videos / SAMPLES[index % len(SAMPLES)]), f"flashvid/resumed/videos/{index:02}.mp4")
    store.pipe_file("flashvid/resumed/videos/broken.mp4", b"no video")
    settings = job(
        tmp_path,
        videos="s3://flashvid/resumed/videos",
        output=f"s3://{output}",
        # Most of them sampled down, so that this is counted, too.
        sampling={"fps": 12.0, "max_frames": 16},
        storage_options={"endpoint_url": cluster.state["endpoint_url"]},
        # The machine's own folder has these very files after an earlier run of this test, and nothing would be fetched.
        resources={
            **{stage: {"concurrency": 1} for stage in ("decode", "encode", "answer")},
            "staging": {"directory": str(tmp_path / "staging")},
        },
    )
    job_file.write_text(settings.model_dump_json(exclude_none=True))  # JSON is YAML

    first = cluster.submit(FLASHVID, "run", str(job_file))
    series: set[str] = set()
    while len(store.glob(f"{output}/answers/*/*/part-*.parquet")) < 2:
        assert cluster.status(first) in ("PENDING", "RUNNING"), cluster.logs(first)
        series |= _values(cluster).keys()
        time.sleep(0.1)
    _driver(job_file).kill()
    assert cluster.wait(first, 60) == "FAILED"
    before = len(_rows(cluster, output, "answers"))
    assert 0 < before < CLIPS * QUESTIONS

    second = cluster.submit(FLASHVID, "run", str(job_file))
    while cluster.status(second) in ("PENDING", "RUNNING"):
        series |= _values(cluster).keys()
        time.sleep(0.3)
    assert cluster.status(second) == "SUCCEEDED", cluster.logs(second)

    answers = _rows(cluster, output, "answers")
    assert len({(row["video_id"], row["question_id"]) for row in answers}) == len(answers) == CLIPS * QUESTIONS
    assert [row["video_id"] for row in _rows(cluster, output, "failures")] == ["broken.mp4"]
    # The same file has the same answers, whichever of the two runs gave them; and both gave some.
    said: dict[tuple[int, str], set[str]] = defaultdict(set)
    for row in answers:
        said[int(row["video_id"].removesuffix(".mp4")) % len(SAMPLES), row["question_id"]].add(row["response"])
    assert {len(responses) for responses in said.values()} == {1}
    assert len({row["run_id"] for row in answers}) == 2
    end = _end(cluster, output)
    assert (end["answers_before"], end["answers_new"]) == (before, CLIPS * QUESTIONS - before)

    assert series_names() - {name for quiet in SILENT for name in METRICS[quiet].series} <= series
    # Counters outlive their processes; they say what the run says of itself.
    counted = _values(cluster, run_id=end["run_id"])
    assert counted["ray_flashvid_answers_committed_total"] == end["answers_new"]
    assert counted["ray_flashvid_frames_decoded_total"] == end["frames_decoded"]
    assert counted["ray_flashvid_visual_tokens_after_total"] == end["visual_tokens_after"]
    assert counted["ray_flashvid_busy_seconds_total"] == pytest.approx(sum(end["stage_seconds"].values()), rel=1e-3)


def _driver(job_file: Path) -> psutil.Process:
    """The process that runs our job file's entrypoint; the shell that Ray starts it with is another."""
    (driver,) = (
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[-1:] == [str(job_file)] and "run" in process.info["cmdline"]
    )
    return driver


def _rows(cluster: StandIn, output: str, name: str) -> list[dict[str, Any]]:
    dataset = ds.dataset(f"{output}/{name}", filesystem=cluster.filesystem(), format="parquet")
    rows: list[dict[str, Any]] = dataset.to_table().to_pylist()
    return rows


def _end(cluster: StandIn, output: str) -> dict[str, Any]:
    """The record of the one run that came to its end."""
    store = cluster.filesystem()
    (name,) = store.glob(f"{output}/runs/*.end.json")
    end: dict[str, Any] = json.loads(store.cat_file(name))
    return end


def _values(cluster: StandIn, **labels: str) -> dict[str, float]:
    """Sums of our metrics by name, over all nodes, of series with these labels; each has its definition's labels."""
    found: dict[str, float] = defaultdict(float)
    for line in cluster.metrics():
        if (sample := re.match(r"(ray_flashvid_\w+)\{(.*)\} (\S+)$", line)) is None or "_sum{" in line:
            continue
        name, text, value = sample.groups()
        (definition,) = (metric for metric in METRICS.values() if name in metric.series)
        given = dict(re.findall(r'(\w+)="([^"]*)"', text))
        assert set(definition.labels) <= given.keys(), line
        if labels.items() <= given.items():
            found[name] += float(value)
    return found
