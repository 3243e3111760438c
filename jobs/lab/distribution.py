"""A run on Ray compared with a plain loop over the same clips: CPU seconds per clip, by kind of process.

Costs that occur once, however many clips there are, are left out of both: of the loop its first clips, and of the run
the time of a run of a few clips, in which every process imports and loads models too. This time varies, which matters
with few clips. The very first run, which reads its programs from disk, does not count.

A run has an encode actor for each core, because every process has one thread: Ray's own processes take the same time
per second, however much work is done in it. The loop has the machine to itself and actors share it, which counts as a
cost of the run.
"""

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
from pipeline.cluster.resources import Pool, clips_per_batch
from pipeline.config import JobConfig

# Enough clips to give every process of a run some work, including the tasks that probe and distribute clips.
FEW = 4
# Folders of the clips for the loop before the run and for the loop after it.
_HALVES = ("first-half", "second-half")
_RUN = "import sys; from pipeline.config import JobConfig; from pipeline.run.run import run; "
_RUN += "run(JobConfig.model_validate_json(open(sys.argv[1]).read()))"


@dataclass(frozen=True)
class Turn:
    """A run on Ray, and the loop before and after it.

    Attributes:
        loops: CPU time of the loop per clip, over the first half of the clips and over the second.
        run: CPU time of the run per clip, by kind of process; that of a few clips is subtracted.
        once: CPU time of a run of a few clips, by kind of process.
    """

    loops: tuple[float, float]
    run: Mapping[Kind, float]
    once: Mapping[Kind, float]

    @property
    def loop_seconds(self) -> float:
        """CPU time per clip, the mean of both halves."""
        return sum(self.loops) / 2

    @property
    def ratio(self) -> float:
        """Ratio of the run, without Ray's daemons, to the loop."""
        return (self.run["driver"] + self.run["workers"]) / self.loop_seconds

    @property
    def ratio_with_daemons(self) -> float:
        """Ratio of the run, with Ray's daemons, to the loop."""
        return sum(self.run.values()) / self.loop_seconds

    @property
    def control(self) -> float:
        """Relative difference between the two loops, which shows a machine that grows slower."""
        return max(self.loops) / min(self.loops) - 1


@dataclass(frozen=True)
class Distribution:
    """A run on Ray compared with the loop.

    Attributes:
        clips: Of the run, beyond the few.
        turns: At least one.
    """

    clips: int
    turns: tuple[Turn, ...]

    @property
    def best(self) -> Turn:
        """The turn that is reported: the one with the smallest control."""
        return min(self.turns, key=lambda turn: turn.control)

    @property
    def ratio_control(self) -> float | None:
        """Relative difference of the ratio between the turns with a small control; None with fewer than two."""
        ratios = [turn.ratio_with_daemons for turn in self.turns if settled(turn.control)]
        return max(ratios) / min(ratios) - 1 if len(ratios) > 1 else None

    @property
    def controls(self) -> tuple[float, ...]:
        """All controls that exist."""
        return (self.best.control,) if self.ratio_control is None else (self.best.control, self.ratio_control)

    @property
    def uncertainty(self) -> float:
        """Of the ratios, as a share: both controls, and the largest allowed variation of the one-time cost."""
        once, clip = sum(self.best.once.values()), sum(self.best.run.values())
        return sum(self.controls) + CONTROL * once / (self.clips * clip)


def measure_distribution(session: RaySession, clips: int, turns: int) -> Distribution:
    """Measure loop and run in turns.

    Args:
        session: The Ray to run on.
        clips: Clips of the run; the loop takes half of them before it, and half after it.
        turns: Number of turns.

    Raises:
        subprocess.CalledProcessError: one of them failed; it says why on stderr.
        ValueError: the run's answers differ from the loop's.
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
            # Their number too: a failed clip would cost the run nothing.
            check_same_answers([folder / f"{half}-output-{turn}" for half in _HALVES], folder / f"videos-output-{turn}")
            spread = {kind: (whole[kind] - few[kind]) / clips for kind in KINDS}
            found.append(Turn((before, behind), spread, few))
    return Distribution(clips, tuple(found))


def check_same_answers(loops: Sequence[Path], run: Path) -> None:
    """Check that loops over parts of the videos and a run over all of them gave the same answers.

    Raises:
        ValueError: they did not.
    """
    expected, found = sorted(answer for output in loops for answer in _answers(output)), sorted(_answers(run))
    if found != expected:
        number = len({*expected} ^ {*found})
        raise ValueError(f"the run has {len(found)} answers, the loop {len(expected)}; {number} are not in both")


def _answers(output: Path) -> list[tuple[str, str]]:
    """Return every answer with the video that it is about."""
    table = pq.read_table(output / "answers", columns=["video_id", "response"], partitioning=None)
    return [*zip(*table.to_pydict().values(), strict=True)]


def _job(folder: Path, videos: str, output: str) -> str:
    """Write a job as JSON; return its path."""
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
    """Return the encode actors of a run: one for each core, but at most one per clip of the subtracted run."""
    return min(len(os.sched_getaffinity(0)), FEW)


def json_of(*arguments: str) -> Any:  # noqa: ANN401 - what the process prints
    """Run Python with arguments; return the last line that it prints, read as JSON.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = _command(*arguments)
    done = subprocess.run(command, env=one_thread(), check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    return json.loads(done.stdout.splitlines()[-1])


def _command(*arguments: str) -> Sequence[str]:
    return [sys.executable, *arguments]


def one_thread() -> dict[str, str]:
    """Return the environment of every measured process."""
    # One thread in the loop and in the actors: threads that wait for each other take CPU time too.
    return {**os.environ, "OMP_NUM_THREADS": "1"}
