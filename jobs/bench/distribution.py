"""A run on Ray beside a plain loop over the same clips: CPU seconds per clip, by kind of process.

What happens once, however many clips there are, is left out of either: of the loop its first clip, and of the run what
one of a few clips takes, in which every process imports and loads models too.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jobs.bench.answers_model import BENCH, write_clip, write_model
from jobs.bench.process_tree import KINDS, Kind, run_measured
from jobs.bench.ray_session import RaySession
from jobs.bench.turns import settled
from pipeline.config import JobConfig

RATIO_TARGET = 1.25
QUESTIONS = ("What is it?", "When is it?", "Who has it?", "Why is it?")
# A clip of so many frames takes more than one CPU second here, from decoding to the last answer.
NUM_FRAMES = 16
# As many clips as every process that a run has gets something to do from: the tasks that probe and deal out, too.
FEW = 4
_RUN = "import sys; from pipeline.config import JobConfig; from pipeline.run import run; "
_RUN += "run(JobConfig.model_validate_json(open(sys.argv[1]).read()))"


@dataclass(frozen=True)
class Distribution:
    """A run on Ray beside the loop.

    Attributes:
        clips: Of the run, beyond the few.
        loops: CPU time of the loop, per clip, turn by turn.
        runs: CPU time of the run, per clip, turn by turn and by kind of process; that of a few clips is taken off.
        once_seconds: CPU time of a run of a few clips, by kind of process.
    """

    clips: int
    loops: tuple[float, ...]
    runs: tuple[Mapping[Kind, float], ...]
    once_seconds: Mapping[Kind, float]

    @property
    def loop_seconds(self) -> float:
        """The least of its turns."""
        return min(self.loops)

    @property
    def ray_seconds(self) -> Mapping[Kind, float]:
        """The run's least turn, by kind of process."""
        return min(self.runs, key=lambda run: sum(run.values()))

    @property
    def controls(self) -> tuple[float, float]:
        """By how much the loop and the run differ from themselves; without a second turn nobody knows."""
        runs = [sum(run.values()) for run in self.runs]
        loops, whole = (max(turns) / min(turns) - 1 if len(turns) > 1 else math.inf for turns in (self.loops, runs))
        return loops, whole

    @property
    def verdict(self) -> str:
        """Whether the target is met; nothing where the control was not reached."""
        if not settled(*self.controls):
            return "no claim"
        return "met" if self.ratio_with_daemons <= RATIO_TARGET else "not met"

    @property
    def ratio(self) -> float:
        """Of the run, without Ray's daemons, to the loop."""
        return (self.ray_seconds["driver"] + self.ray_seconds["workers"]) / self.loop_seconds

    @property
    def ratio_with_daemons(self) -> float:
        """Of everything to the loop."""
        return sum(self.ray_seconds.values()) / self.loop_seconds


def measure_distribution(session: RaySession, clips: int, turns: int) -> Distribution:
    """Loop and runs in turns; the least of each counts.

    Raises:
        subprocess.CalledProcessError: one of them failed; it says why on stderr.
    """
    with TemporaryDirectory(prefix="flashvid-bench-") as name:
        folder = Path(name)
        write_model(folder / "model", BENCH)
        for number in range(clips + FEW):
            write_clip(folder / "videos" / f"{number:04d}.mp4", 2 * NUM_FRAMES, number)
        for number in range(FEW):
            write_clip(folder / "few" / f"{number:04d}.mp4", 2 * NUM_FRAMES, number)

        def run(videos: str, turn: int) -> dict[Kind, float]:
            command = _command("-c", _RUN, _job(folder, videos, f"{videos}-output-{turn}"))
            return run_measured(command, session.environment, session.tree)

        loops, few, whole = [], [], []
        for turn in range(turns):
            loops.append(json_of("-m", "jobs.bench.plain_loop", _job(folder, "videos", f"loop-output-{turn}")))
            few.append(run("few", turn))
            whole.append(run("videos", turn))
    runs = [{kind: (both[kind] - once[kind]) / clips for kind in KINDS} for both, once in zip(whole, few, strict=True)]
    return Distribution(clips, tuple(loops), tuple(runs), min(few, key=lambda seconds: sum(seconds.values())))


def _job(folder: Path, videos: str, output: str) -> str:
    """Path of a job's JSON."""
    job = JobConfig.model_validate(
        {
            "videos": str(folder / videos),
            "questions": QUESTIONS,
            "output": str(folder / output),
            "model": {"name": str(folder / "model")},
            "compression": {"retention_ratio": 0.1},
            "sampling": {"num_frames": NUM_FRAMES},
            "generation": {"max_new_tokens": 8},
        }
    )
    path = folder / f"{output}.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    return str(path)


def json_of(*arguments: str) -> Any:  # noqa: ANN401 - what the process prints
    """The last line that a module's process prints, read as JSON.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = _command(*arguments)
    done = subprocess.run(command, env=one_thread(), check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def _command(*arguments: str) -> Sequence[str]:
    return [sys.executable, *arguments]


def one_thread() -> dict[str, str]:
    """Variables of every process that is measured."""
    # One thread everywhere, in the loop as in the actors: threads that wait for each other take CPU time as well.
    return {**os.environ, "OMP_NUM_THREADS": "1"}
