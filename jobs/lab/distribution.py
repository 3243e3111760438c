"""A run on Ray beside a plain loop over the same clips: CPU seconds per clip, by kind of process.

What happens once, however many clips there are, is left out of either: of the loop its first clips, and of the run what
one of a few clips takes, in which every process imports and loads models too. That differs from itself as well, which
shows with few clips; and the first run of all, which reads its programs from disk, counts as none.

A run has an encode actor for each core, as every process has one thread: what Ray's own processes take while they wait
is the same for a second, however much is done in it. The loop has the machine for itself, actors share it, which counts
as a cost of the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from jobs.bench.local_run import NUM_FRAMES, QUESTIONS
from jobs.bench.turns import CONTROL, settled
from jobs.lab.answers_model import BENCH, write_model
from jobs.lab.process_tree import KINDS, Kind, run_measured
from jobs.lab.ray_session import RaySession
from jobs.lab.sample_videos import write_textures
from jobs.lab.verdicts import verdict
from pipeline.cluster.resources import Pool, clips_per_batch
from pipeline.config import JobConfig

RATIO_TARGET = 1.25
# As many clips as every process that a run has gets something to do from: the tasks that probe and deal out, too.
FEW = 4
# Of the clips, for the loop before the run and for the loop behind it.
_HALVES = ("first-half", "second-half")
_RUN = "import sys; from pipeline.config import JobConfig; from pipeline.run.run import run; "
_RUN += "run(JobConfig.model_validate_json(open(sys.argv[1]).read()))"


@dataclass(frozen=True)
class Turn:
    """A run on Ray, and the loop before and behind it.

    Attributes:
        loops: CPU time of the loop per clip, over the first half of the clips and over the second.
        run: CPU time of the run per clip, by kind of process; that of a few clips is taken off.
        once: CPU time of a run of a few clips, likewise.
    """

    loops: tuple[float, float]
    run: Mapping[Kind, float]
    once: Mapping[Kind, float]

    @property
    def loop_seconds(self) -> float:
        """CPU time per clip, the mean of both halves."""
        return sum(self.loops) / 2

    @property
    def ratio_with_daemons(self) -> float:
        """Of everything to the loop."""
        return sum(self.run.values()) / self.loop_seconds

    @property
    def control(self) -> float:
        """By how much the loop differs from itself, on which a machine that grows slower meanwhile shows."""
        return max(self.loops) / min(self.loops) - 1


@dataclass(frozen=True)
class Distribution:
    """A run on Ray beside the loop.

    Attributes:
        clips: Of the run, beyond the few.
        turns: At least one.
    """

    clips: int
    turns: tuple[Turn, ...]

    @property
    def best(self) -> Turn:
        """The turn that is told: in which the loop agrees best with itself."""
        return min(self.turns, key=lambda turn: turn.control)

    @property
    def control(self) -> float:
        """Of that turn."""
        return self.best.control

    @property
    def ratio_control(self) -> float | None:
        """By how much the ratio differs between the turns whose loop agrees with itself; None with fewer than two."""
        ratios = [turn.ratio_with_daemons for turn in self.turns if settled(turn.control)]
        return max(ratios) / min(ratios) - 1 if len(ratios) > 1 else None

    @property
    def controls(self) -> tuple[float, ...]:
        """Those that there are."""
        return (self.control,) if self.ratio_control is None else (self.control, self.ratio_control)

    @property
    def uncertainty(self) -> float:
        """Of the ratios, as a share: both controls, and what happens once differing from itself as a control may."""
        once, clip = sum(self.once_seconds.values()), sum(self.ray_seconds.values())
        return sum(self.controls) + CONTROL * once / (self.clips * clip)

    @property
    def loop_seconds(self) -> float:
        """CPU time per clip, the mean of both halves."""
        return self.best.loop_seconds

    @property
    def ray_seconds(self) -> Mapping[Kind, float]:
        """CPU time per clip, by kind of process."""
        return self.best.run

    @property
    def once_seconds(self) -> Mapping[Kind, float]:
        """Of a run of a few clips."""
        return self.best.once

    @property
    def verdict(self) -> str:
        """Whether the target is met; nothing where the control was not reached, or the ratio is as near the target."""
        return verdict(
            self.ratio_with_daemons, RATIO_TARGET, *self.controls, uncertainty=self.uncertainty, at_most=True
        )

    @property
    def ratio(self) -> float:
        """Of the run, without Ray's daemons, to the loop."""
        return (self.ray_seconds["driver"] + self.ray_seconds["workers"]) / self.loop_seconds

    @property
    def ratio_with_daemons(self) -> float:
        """Of everything to the loop."""
        return self.best.ratio_with_daemons


def measure_distribution(session: RaySession, clips: int, turns: int) -> Distribution:
    """Loop and run in turns.

    Args:
        session: The Ray that runs are on.
        clips: Of the run; half of them are the loop's before it, half behind it.
        turns: How often.

    Raises:
        subprocess.CalledProcessError: one of them failed; it says why on stderr.
        ValueError: the run's answers are not the loop's.
    """
    with TemporaryDirectory(prefix="flashvid-bench-") as name:
        folder = Path(name)
        write_model(folder / "model", BENCH)
        for number in range(clips + FEW):
            clip = folder / "videos" / f"{number:04d}.mp4"
            write_textures(clip, 2 * NUM_FRAMES, number)
            half = folder / _HALVES[2 * number // (clips + FEW)]
            for also in (half, folder / "few") if number < FEW else (half,):
                also.mkdir(exist_ok=True)
                os.link(clip, also / clip.name)

        together = clips_per_batch(clips + FEW, (clips + FEW) * len(QUESTIONS), Pool(1, 1, 0), encodes=True)

        def loop(videos: str, turn: int) -> float:
            job = _job(folder, videos, f"{videos}-output-{turn}")
            return float(json_of("-m", "jobs.lab.plain_loop", job, str(together)))

        def run(videos: str, turn: int) -> dict[Kind, float]:
            command = _command("-c", _RUN, _job(folder, videos, f"{videos}-output-{turn}"))
            return run_measured(command, session.environment, session.tree)

        run("few", turns)
        found = []
        for turn in range(turns):
            before = loop(_HALVES[0], turn)
            few, whole = run("few", turn), run("videos", turn)
            behind = loop(_HALVES[1], turn)
            # As many, too: a clip that fails costs a run nothing.
            check_same_answers([folder / f"{half}-output-{turn}" for half in _HALVES], folder / f"videos-output-{turn}")
            spread = {kind: (whole[kind] - few[kind]) / clips for kind in KINDS}
            found.append(Turn((before, behind), spread, few))
    return Distribution(clips, tuple(found))


def check_same_answers(loops: Sequence[Path], run: Path) -> None:
    """Whether loops over parts of the videos and a run over all of them, by their outputs, gave the same answers.

    Raises:
        ValueError: they did not.
    """
    expected, found = sorted(answer for output in loops for answer in _answers(output)), sorted(_answers(run))
    if found != expected:
        number = len({*expected} ^ {*found})
        raise ValueError(f"the run has {len(found)} answers, the loop {len(expected)}; {number} are not in both")


def _answers(output: Path) -> list[tuple[str, str]]:
    """Every answer, behind the video that it is about."""
    table = pq.read_table(output / "answers", columns=["video_id", "response"], partitioning=None)
    return [*zip(*table.to_pydict().values(), strict=True)]


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
            "resources": {"encode": {"concurrency": encode_actors()}},
        }
    )
    path = folder / f"{output}.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    return str(path)


def encode_actors() -> int:
    """Of a run: one for each core, but no more than get a clip in the run that is taken off."""
    return min(len(os.sched_getaffinity(0)), FEW)


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
