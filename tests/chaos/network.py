"""A run on S3 behind a bad network, on a cluster whose processes are killed, against an undisturbed one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow.dataset as ds
from ray.cluster_utils import Cluster

from pipeline.care.verify import verify
from pipeline.cluster.local_ray import changed_environment, new_token, read_authentication
from pipeline.config import JobConfig
from tests.chaos.kills import Killer, schedule
from tests.support.fault_proxy import fault_proxy
from tests.support.object_stores import ObjectStore
from tests.support.runs import job
from tests.support.sample_folder import make_sample_videos

SAMPLES = ("moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4", "short_flash.mp4")
QUESTIONS = ("What happens here?", "How many objects are there?", "Which colour is it?", "What moves?")
_FLASHVID = str(Path(sys.executable).parent / "flashvid")
_BROKEN_IN = 40
_HOST = "127.0.0.1"
_TICK_S = 0.1


@dataclass(frozen=True)
class Outcome:
    """What a chaos run came to.

    Attributes:
        faults: Carried out, in order, each as text.
        runs: Drivers that were started.
        seconds: Wall time.
        problems: What is not as in the undisturbed run; empty if all is well.
    """

    faults: tuple[str, ...]
    runs: int
    seconds: float
    problems: tuple[str, ...]


class Nodes:
    """A head without work and two workers, all on this machine."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "node_ip_address": _HOST}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._workers = [self._add() for _ in range(2)]
        self.address: str = self._cluster.address

    def replace_one(self) -> None:
        """SIGKILL all processes of a worker node; another one joins."""
        self._cluster.remove_node(self._workers.pop(0), allow_graceful=False)
        self._workers.append(self._add())

    def stop(self) -> None:
        """End all processes."""
        self._cluster.shutdown()

    def _add(self) -> object:
        return self._cluster.add_node(num_cpus=2, node_ip_address=_HOST)


@contextmanager
def _nodes() -> Iterator[Nodes]:
    """A cluster on 127.0.0.1 with a token of its own, which drivers inherit."""
    with changed_environment(new_token()):
        read_authentication()
        nodes = Nodes()
        try:
            yield nodes
        finally:
            nodes.stop()
    read_authentication()


def on_a_bad_network(
    folder: Path, store: ObjectStore, *, num_clips: int, num_kills: int, seed: int, say: Callable[[str], object] = print
) -> Outcome:
    """Run a job undisturbed and once more while its processes are killed, and compare.

    Args:
        folder: For files of this run.
        store: Where videos, tokens and tables go.
        num_clips: Videos, of which one in forty is broken.
        num_kills: At least 8.
        seed: When what is killed, and which requests fail.
        say: Told each kill as it happens.
    """
    videos = _upload(store, folder, num_clips)
    undisturbed = _job(store, folder, videos, store.endpoint_url)
    with _nodes() as nodes:
        assert _start(undisturbed, folder / "undisturbed.json", nodes.address).wait(timeout=1200) == 0
        killer = Killer(schedule(num_kills, num_clips, seed), nodes.replace_one)
        with fault_proxy(store.endpoint_url, share=0.05, seed=seed, hang_s=1.5, on_request=killer.on_request) as proxy:
            killer.port = proxy.server_address[1]
            disturbed = _job(store, folder, videos, proxy.endpoint_url)
            begun = time.monotonic()
            runs = _run_to_its_end(disturbed, folder / "disturbed.json", nodes.address, killer, say)
            seconds = time.monotonic() - begun
            say(f"{proxy.requests} requests, faults: {dict(proxy.faults)}")
    problems = [f"was not carried out: {kill}" for kill in killer.left]
    problems += _differences(store, undisturbed, disturbed, num_clips)
    return Outcome(tuple(map(str, killer.carried_out)), runs, seconds, tuple(problems))


def _upload(store: ObjectStore, folder: Path, num_clips: int) -> str:
    samples, url, files = folder / "samples", store.folder(), store.filesystem()
    make_sample_videos(samples)
    for number in range(num_clips):
        if number % _BROKEN_IN == _BROKEN_IN // 2:
            files.pipe_file(f"{url}/videos/{number:04}.mp4", b"not a video")
        else:
            files.put_file(str(samples / SAMPLES[number % len(SAMPLES)]), f"{url}/videos/{number:04}.mp4")
    return f"{url}/videos"


def _job(store: ObjectStore, folder: Path, videos: str, endpoint_url: str) -> JobConfig:
    url = store.folder()
    return job(
        folder,
        videos=videos,
        questions=list(QUESTIONS),
        output=f"{url}/output",
        cache=f"{url}/cache",
        storage_options={"endpoint_url": endpoint_url},
        max_attempts=5,
    )


def _start(of_job: JobConfig, job_file: Path, address: str) -> subprocess.Popen[bytes]:
    job_file.write_text(of_job.model_dump_json(exclude_none=True))  # JSON is YAML
    with job_file.with_suffix(".log").open("ab") as log:
        command = [_FLASHVID, "run", str(job_file), "--address", address]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def _run_to_its_end(
    of_job: JobConfig, job_file: Path, address: str, killer: Killer, say: Callable[[str], object]
) -> int:
    """Start the job's driver, again and again, until one ends by itself with nothing left to do."""
    told = 0
    for number in range(1, 100):
        with _start(of_job, job_file, address) as driver:
            killer.driver = psutil.Process(driver.pid)
            while driver.poll() is None:
                killer.tick()
                for kill in killer.carried_out[told:]:
                    say(f"run {number}: {kill}")
                told = len(killer.carried_out)
                time.sleep(_TICK_S)
        if driver.returncode == 0:
            return number
    raise AssertionError(f"no run has come to its end; see {job_file.with_suffix('.log')}")


def _differences(store: ObjectStore, undisturbed: JobConfig, disturbed: JobConfig, num_clips: int) -> list[str]:
    problems = []
    before, after = ({_key(row): row for row in _rows(store, of, "answers")} for of in (undisturbed, disturbed))
    twice = Counter(_key(row) for row in _rows(store, disturbed, "answers"))
    problems += [f"lost: {key}" for key in before.keys() - after.keys()]
    problems += [f"was not to be answered: {key}" for key in after.keys() - before.keys()]
    problems += [f"answered {count} times: {key}" for key, count in twice.items() if count > 1]
    for key in before.keys() & after.keys():
        if (was := before[key]["response"]) != (now := after[key]["response"]):
            problems.append(f"answered {now!r} instead of {was!r}: {key}")
    sound = num_clips - len(range(_BROKEN_IN // 2, num_clips, _BROKEN_IN))
    if len(before) != sound * len(QUESTIONS):
        problems.append(f"the undisturbed run has {len(before)} answers instead of {sound * len(QUESTIONS)}")
    failures = [
        sorted((row["clip_id"], row["stage"], row["error_type"]) for row in _rows(store, of, "failures"))
        for of in (undisturbed, disturbed)
    ]
    problems += [f"failed, and not in the undisturbed run: {row}" for row in failures[1] if row not in failures[0]]
    problems += [f"a failure is missing: {row}" for row in failures[0] if row not in failures[1]]
    roots = [store.storage(place) for place in (disturbed.output, disturbed.tokens_root)]
    problems += [f"verify: {finding}" for finding in verify(roots[0], roots).findings]
    return problems


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["clip_id"], row["question_id"], row["question_hash"]


def _rows(store: ObjectStore, of_job: JobConfig, name: str) -> list[dict[str, Any]]:
    storage = store.storage(of_job.output)
    paths = [storage.path(found) for found in storage.names(name)]
    if not paths:
        return []
    rows: list[dict[str, Any]] = ds.dataset(paths, format="parquet", filesystem=storage.fs).to_table().to_pylist()
    return rows
