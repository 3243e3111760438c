"""`flashvid bench planning`: time and memory of planning a job of very many videos, half of it answered.

The output folder is filled as earlier runs would have left it: probes of every video, answers to the first half of
the questions, and tokens of every second video (empty objects: planning looks at names only). Every row has its own
path; a thousand paths lead to one file, because a million files would take longer to make than to plan.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from flashvid.models import resolve_model
from jobs.bench.reports import describe_environment, write_report, write_rows
from pipeline.cluster.connection import connected
from pipeline.config import CommitConfig, JobConfig
from pipeline.inputs.job_inputs import read_tables
from pipeline.plan.plan import PlanCounts
from pipeline.plan.planner import Planner
from pipeline.run.committer import Committer
from pipeline.store import schemas
from pipeline.store.context import RunContext
from pipeline.store.fingerprint import fingerprints
from pipeline.store.keys import clip_id, content_key, digest, shard_of
from pipeline.store.lease import Lease

_ROWS_AT_ONCE = 100_000
_DURATION_S = 600.0


@dataclass(frozen=True)
class PlanningCost:
    """What planning took.

    Attributes:
        counts: What was planned.
        seconds: Wall time from the tables on storage to the plan, Ray's start apart.
        cpu_seconds: CPU time of the driver, connecting to Ray or starting it included.
        ray_seconds: Wall time of connecting to Ray or starting it.
        driver_bytes: Largest resident memory of the driver's process, memory shared with Ray's object store included.
        imports_bytes: The same before planning began.
    """

    counts: PlanCounts
    seconds: float
    cpu_seconds: float
    ray_seconds: float
    driver_bytes: int
    imports_bytes: int


def bench_planning(output: Path | None, *, num_videos: int, num_questions: int) -> PlanningCost:
    """Measure planning, print what it took, and write it to `planning.md` and `planning.csv`."""
    cost = measure_planning(num_videos, num_questions)
    text = _markdown(cost, num_questions)
    print(text)
    if output is not None:
        write_report(output, "planning", text)
        write_rows(output / "planning.csv", [planning_figures(cost, num_questions)])
    return cost


def planning_figures(cost: PlanningCost, num_questions: int) -> dict[str, object]:
    """Return a row for a table."""
    figures = {name: value for name, value in asdict(cost).items() if name != "counts"}
    return {"questions": num_questions, **asdict(cost.counts), **figures}


def measure_planning(num_videos: int, num_questions: int, environment: Mapping[str, str] | None = None) -> PlanningCost:
    """Fill a folder, and plan in another process, with this environment instead of ours."""
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), num_videos, num_questions)
        command = [sys.executable, "-m", "jobs.lab.planning", folder]
        measured = subprocess.run(  # noqa: S603 - our own
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
    found = json.loads(measured.stdout.splitlines()[-1])
    return PlanningCost(**{**found, "counts": PlanCounts(**found["counts"])})


def load_job(folder: Path) -> JobConfig:
    return JobConfig.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))


def fill(folder: Path, num_videos: int, num_questions: int) -> None:
    paths = _paths(folder / "videos", num_videos)
    names = [f"video-{number:07d}" for number in range(num_videos)]
    checksums = [digest("checksum", number) for number in range(num_videos)]
    videos = {"video_id": names, "video_path": paths, "checksum": checksums}
    pq.write_table(pa.table(videos), folder / "videos.parquet")
    job = JobConfig.model_validate(
        {
            "videos": str(folder / "videos.parquet"),
            "questions": [
                {"question_id": f"q{number}", "question": f"What happens in part {number}?"}
                for number in range(num_questions)
            ],
            "output": str(folder / "output"),
            "model": {"name": "tiny-random"},
            "source_id_column": "checksum",
        }
    )
    (folder / "job.json").write_text(job.model_dump_json(), encoding="utf-8")
    _fill_output(job, names, paths, [digest("source", checksum) for checksum in checksums])


def _paths(folder: Path, count: int) -> list[str]:
    """Return paths of existing files: a folder of a thousand files, linked under several names."""
    files = folder / "0000"
    files.mkdir(parents=True)
    for number in range(1000):
        (files / f"{number:03d}.mp4").write_bytes(b"only its state is looked at")
    for number in range(1, -(-count // 1000)):
        (folder / f"{number:04d}").symlink_to(files)
    return [f"{folder}/{number // 1000:04d}/{number % 1000:03d}.mp4" for number in range(count)]


def _fill_output(job: JobConfig, names: list[str], paths: list[str], sources: list[str]) -> None:
    prints = fingerprints(job, resolve_model(job.model.name).identity)
    output = Path(job.output)
    for begin in range(0, len(sources), _ROWS_AT_ONCE):
        some = sources[begin : begin + _ROWS_AT_ONCE]
        known = {"source_id": some, "video_path": paths[begin : begin + _ROWS_AT_ONCE], "duration_s": _DURATION_S}
        _write(output / f"probes/part-{begin:09d}.parquet", schemas.PROBES, known, len(some))
    keys = [content_key(source, None, None) for source in sources]
    for key in keys[::2]:
        _touch(output / f"tokens/fingerprint={prints.tokens}/shard={key[:2]}/{key}.parquet")
    by_shard: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        by_shard.setdefault(shard_of(name), []).append(number)
    _, questions = read_tables(job)
    answered = questions.common[: len(questions.common) // 2]
    for shard, numbers in by_shard.items():
        each = [number for number in numbers for _ in answered]
        rows = {
            "video_id": [names[number] for number in each],
            "clip_id": [clip for n in numbers for clip in [clip_id(names[n], keys[n])] * len(answered)],
            "question_id": [question.question_id for question in answered] * len(numbers),
            "question_hash": [question.fixed_hash for question in answered] * len(numbers),
            "question": [question.template for question in answered] * len(numbers),
            "response": "an answer of some length, which planning has no business to read",
            "run_id": "20260101T000000-00000000",
        }
        folder = output / f"answers/fingerprint={prints.answers}/shard={shard}"
        _write(folder / "part-00000.parquet", schemas.ANSWERS, rows, len(each))


def _write(path: Path, schema: pa.Schema, columns: dict[str, object], num_rows: int) -> None:
    """Write a Parquet file; a single value fills its column, and missing columns are null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = []
    for field in schema:
        value = columns.get(field.name)
        if isinstance(value, list):
            arrays.append(pa.array(value, field.type))
        else:
            arrays.append(pa.nulls(num_rows, field.type) if value is None else pa.repeat(pa.scalar(value), num_rows))
    pq.write_table(pa.table(arrays, schema=schema), path)


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _measure(folder: Path) -> PlanningCost:
    """Plan, as a run does before its first clip."""
    job, imports_bytes = load_job(folder), peak_bytes()
    run = RunContext.of(job, resolve_model(job.model.name))
    begun, cpu_begun = time.monotonic(), time.process_time()
    videos, questions = read_tables(job)
    ray_seconds = 0.0
    with Lease.acquire(run.storage, run.run_id) as lease, ExitStack() as stack:

        def connect() -> None:
            nonlocal ray_seconds
            start = time.monotonic()
            stack.enter_context(connected())
            ray_seconds += time.monotonic() - start

        committer = Committer(run.ledger, lease, CommitConfig())
        planner = Planner(run, on_failure=committer.add_failure, tick=committer.tick, connect=connect)
        counts = planner.plan(videos, questions).counts
        seconds = time.monotonic() - begun - ray_seconds
        cpu_seconds = time.process_time() - cpu_begun
        return PlanningCost(counts, seconds, cpu_seconds, ray_seconds, peak_bytes(), imports_bytes)


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def _markdown(cost: PlanningCost, num_questions: int) -> str:
    counts = cost.counts
    return (
        f"{describe_environment()}\n\n"
        "| videos | questions | answered | answers planned | to encode | cached | seconds | Ray's start "
        "| driver's peak | of it imports |\n|---|---|---|---|---|---|---|---|---|---|\n"
        f"| {counts.clips_total:,} | {num_questions} | {counts.answers_done:,} | {counts.answers_planned:,} "
        f"| {counts.clips_to_encode:,} | {counts.clips_cached:,} | {cost.seconds:.1f} | {cost.ray_seconds:.1f} "
        f"| {cost.driver_bytes / 1e9:.2f} GB | {cost.imports_bytes / 1e9:.2f} GB |\n"
    )


if __name__ == "__main__":
    print(json.dumps(asdict(_measure(Path(sys.argv[1])))))
