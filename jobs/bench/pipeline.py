"""`flashvid bench pipeline`: what the distribution costs, in CPU time, in idle GPUs, and in the driver.

CPU time of a run on Ray is that of its processes, one by one. A run of a few clips is subtracted: starting Ray, and
every process that imports and loads models, happens once, however many clips there are. The loop's first is left out.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs.bench.answers_model import BENCH, write_clip, write_model
from jobs.bench.environment import describe_environment
from jobs.bench.planning import PlanningCost, measure_planning
from jobs.bench.process_tree import Kind, run_measured
from jobs.bench.sleeping import Asleep, Sleeps
from pipeline.config import JobConfig

RATIO_TARGET, BUSY_TARGET, GROWTH_TARGET = 1.25, 0.9, 1.8
_QUESTIONS = ("What is it?", "When is it?", "Who has it?", "Why is it?")
# A clip of so many frames takes more than one CPU second here, from decoding to the last answer.
_NUM_FRAMES = 16
# As many clips as every process that a run has gets something to do from: the tasks that probe and deal out, too.
_FEW = 4
_KINDS: tuple[Kind, ...] = ("driver", "workers", "daemons")
_RUN = "import sys; from pipeline.config import JobConfig; from pipeline.run import run; "
_RUN += "run(JobConfig.model_validate_json(open(sys.argv[1]).read()))"


@dataclass(frozen=True)
class Scope:
    """How much is measured.

    Attributes:
        clips: Of the run on Ray and of the loop.
        sleeping: Clips of the sleeping graph with one bottleneck actor; twice as many with two.
        executed: Clips that go through stages that do nothing.
        planned: Clips of the plans.
    """

    clips: int = 48
    sleeping: int = 60
    executed: int = 1000
    planned: tuple[int, ...] = (10_000, 100_000)


QUICK = Scope(clips=2, sleeping=10, executed=20, planned=(1000,))
# The bottleneck is encode, as on GPUs; the others have half of their time to spare.
_SLEEPS = {"decode": 0.1, "encode": 0.4, "answer": 0.1}
_NOTHING = dict.fromkeys(_SLEEPS, 0.0)


@dataclass(frozen=True)
class Distribution:
    """A run on Ray beside the loop.

    Attributes:
        clips: Of the run, beyond the few.
        loop_seconds: CPU time of the loop, per clip.
        ray_seconds: CPU time of the run, per clip, by kind of process.
        once_seconds: CPU time of a run of a few clips, by kind of process.
    """

    clips: int
    loop_seconds: float
    ray_seconds: Mapping[Kind, float]
    once_seconds: Mapping[Kind, float]

    @property
    def ratio(self) -> float:
        """Of the run, without Ray's daemons, to the loop."""
        return (self.ray_seconds["driver"] + self.ray_seconds["workers"]) / self.loop_seconds

    @property
    def ratio_with_daemons(self) -> float:
        """Of everything to the loop."""
        return sum(self.ray_seconds.values()) / self.loop_seconds


@dataclass(frozen=True)
class PipelineCosts:
    """Everything measured.

    Attributes:
        distribution: See there.
        one: The sleeping graph with one bottleneck actor.
        two: And with two.
        executed: Stages that do nothing, and how many clips they did it for.
        planned: Plans.
    """

    distribution: Distribution
    one: Asleep
    two: Asleep
    executed: tuple[int, Asleep]
    planned: tuple[PlanningCost, ...]

    @property
    def growth(self) -> float:
        """Of throughput from one to two bottleneck actors."""
        return self.two.clips_per_second / self.one.clips_per_second


def bench_pipeline(output: Path | None = None, *, quick: bool = False, clips: int | None = None) -> PipelineCosts:
    """Measure, print the tables, and write `pipeline.md` and `pipeline.csv`.

    Args:
        output: A folder, made if need be; None writes nothing.
        quick: Few clips, to see that the measurement works; its figures mean little.
        clips: Of the run and the loop; None for the scope's own.

    Raises:
        subprocess.CalledProcessError: a process that is measured failed; it says why on stderr.
    """
    scope, before = QUICK if quick else Scope(), os.getloadavg()[0]
    found = PipelineCosts(
        distribution=_distribution(clips or scope.clips),
        one=_asleep(Sleeps(scope.sleeping, 1, _SLEEPS)),
        two=_asleep(Sleeps(2 * scope.sleeping, 2, _SLEEPS)),
        executed=(scope.executed, _asleep(Sleeps(scope.executed, 1, _NOTHING))),
        planned=tuple(measure_planning(number, 2) for number in scope.planned),
    )
    text = pipeline_markdown(found, f"load of the machine {before:.1f} before, {os.getloadavg()[0]:.1f} after")
    print(text)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "pipeline.md").write_text(text, encoding="utf-8")
        with (output / "pipeline.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(_figures(found))
    return found


def _distribution(clips: int) -> Distribution:
    with TemporaryDirectory(prefix="flashvid-bench-") as name:
        folder = Path(name)
        write_model(folder / "model", BENCH)
        for number in range(clips + _FEW):
            write_clip(folder / "videos" / f"{number:04d}.mp4", 2 * _NUM_FRAMES, number)
        for number in range(_FEW):
            write_clip(folder / "few" / f"{number:04d}.mp4", 2 * _NUM_FRAMES, number)
        once = run_measured(_command("-c", _RUN, _job(folder, "few", "few-output")), _environment()).cpu_seconds
        both = run_measured(_command("-c", _RUN, _job(folder, "videos", "output")), _environment()).cpu_seconds
        loop = _json_of("-m", "jobs.bench.plain_loop", _job(folder, "videos", "loop-output"))
    per_clip = {kind: (both[kind] - once[kind]) / clips for kind in _KINDS}
    return Distribution(clips, loop, per_clip, once)


def _job(folder: Path, videos: str, output: str) -> str:
    """Path of a job's JSON."""
    job = JobConfig.model_validate(
        {
            "videos": str(folder / videos),
            "questions": _QUESTIONS,
            "output": str(folder / output),
            "model": {"name": str(folder / "model")},
            "compression": {"retention_ratio": 0.1},
            "sampling": {"num_frames": _NUM_FRAMES},
            "generation": {"max_new_tokens": 8},
        }
    )
    path = folder / f"{output}.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    return str(path)


def _asleep(sleeps: Sleeps) -> Asleep:
    return Asleep(**_json_of("-m", "jobs.bench.sleeping", json.dumps(asdict(sleeps))))


def _json_of(*arguments: str) -> Any:  # noqa: ANN401 - what the process prints
    """The last line that a process prints."""
    command = _command(*arguments)
    done = subprocess.run(command, env=_environment(), check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def _command(*arguments: str) -> Sequence[str]:
    return [sys.executable, *arguments]


def _environment() -> dict[str, str]:
    # One thread everywhere, in the loop as in the actors: threads that wait for each other take CPU time as well.
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def pipeline_markdown(found: PipelineCosts, beside: str) -> str:
    """The report.

    Args:
        found: What was measured.
        beside: What else the machine did.
    """
    spread, executed = found.distribution, found.executed[1]
    lines = [
        "# What the distribution costs",
        "",
        f"{describe_environment()}; {beside}.",
        "",
        f"CPU seconds per clip, {spread.clips} clips of {_NUM_FRAMES} frames and {len(_QUESTIONS)} questions; what "
        f"happens once, a run of {_FEW} clips, apart:",
        "",
        "| | plain loop | driver | actors | Ray's daemons | without daemons | with daemons | target |",
        "|---" * 8 + "|",
        f"| per clip | {spread.loop_seconds:.3f} | "
        + " | ".join(f"{spread.ray_seconds[kind]:.3f}" for kind in _KINDS)
        + f" | {spread.ratio:.2f}x | {spread.ratio_with_daemons:.2f}x | {RATIO_TARGET}x |",
        "| once | | " + " | ".join(f"{spread.once_seconds[kind]:.1f}" for kind in _KINDS) + " | | | |",
        "",
        "Stages that sleep "
        + ", ".join(f"{seconds} s ({stage})" for stage, seconds in _SLEEPS.items())
        + " a clip, on logical GPUs:",
        "",
        "| encode actors | clips per second | busy | target | growth | target |",
        "|---" * 6 + "|",
        f"| 1 | {found.one.clips_per_second:.2f} | {found.one.busy:.1%} | {BUSY_TARGET:.0%} | | |",
        f"| 2 | {found.two.clips_per_second:.2f} | {found.two.busy:.1%} | {BUSY_TARGET:.0%} | {found.growth:.2f}x "
        f"| {GROWTH_TARGET}x |",
        "",
        "The driver, with stages that do nothing and with plans alone (half of the answers there already):",
        "",
        "| | clips | driver, CPU ms per clip | driver, MB |",
        "|---" * 4 + "|",
        f"| executed | {found.executed[0]:,} | {executed.driver_seconds * 1e3:.2f} "
        f"| {executed.driver_bytes / 1e6:.0f} |",
    ]
    lines += [
        f"| planned | {cost.counts.clips_total:,} | {cost.cpu_seconds / cost.counts.clips_total * 1e3:.2f} "
        f"| {cost.driver_bytes / 1e6:.0f} |"
        for cost in found.planned
    ]
    return "\n".join(lines) + "\n"


def _figures(found: PipelineCosts) -> list[tuple[str, float]]:
    spread = found.distribution
    rows = [("clips", float(spread.clips)), ("loop_cpu_seconds_per_clip", spread.loop_seconds)]
    rows += [(f"{kind}_cpu_seconds_per_clip", spread.ray_seconds[kind]) for kind in _KINDS]
    rows += [(f"{kind}_cpu_seconds_once", spread.once_seconds[kind]) for kind in _KINDS]
    rows += [("ratio", spread.ratio), ("ratio_with_daemons", spread.ratio_with_daemons)]
    rows += [("busy_one", found.one.busy), ("busy_two", found.two.busy), ("growth", found.growth)]
    number, executed = found.executed
    rows += [(f"driver_cpu_seconds_executed_{number}", executed.driver_seconds)]
    rows += [(f"driver_bytes_executed_{number}", float(executed.driver_bytes))]
    for cost in found.planned:
        clips = cost.counts.clips_total
        rows += [(f"driver_cpu_seconds_planned_{clips}", cost.cpu_seconds / clips)]
        rows += [(f"driver_bytes_planned_{clips}", float(cost.driver_bytes))]
    return rows
