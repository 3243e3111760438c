"""`bench pipeline` and `bench cache`: processes are found and told apart, figures are what their parts make."""

from __future__ import annotations

import csv
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flashvid.models import load_model, load_preprocessor
from jobs.bench.cache import bench_cache, measure_cache
from jobs.bench.turns import Patience, settled
from jobs.lab.distribution import Distribution, Turn, check_same_answers, measure_distribution, one_thread
from jobs.lab.distribution_study import PipelineCosts, pipeline_markdown
from jobs.lab.plain_file import plain_file
from jobs.lab.plain_loop import run_loop
from jobs.lab.planning import PlanningCost, measure_planning
from jobs.lab.process_tree import KINDS, Kind, ProcessTree, run_measured
from jobs.lab.ray_session import ray_session
from jobs.lab.sleeping import Asleep, Sleeps, seconds_within
from pipeline.config import SamplingConfig
from pipeline.plan.plan import PlanCounts
from pipeline.video.clip_frames import decode_clip
from tests.support.runs import copy_videos, job

# Burns CPU, says how much, and then waits to be told to end; so does a child of it.
_BURNING = """
import subprocess, sys, time
child = None
if len(sys.argv) < 2:
    child = subprocess.Popen([sys.executable, "-c", sys.stdin.readline().strip().replace(chr(1), chr(10)), "child"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    child_seconds = child.stdout.readline()
while time.process_time() < 0.3:
    pass
print(time.process_time(), child_seconds.strip() if child else "", flush=True)
sys.stdin.readline()
if child:
    child.communicate(chr(10))
"""


def test_processes_are_found_with_their_time() -> None:
    """A child's and a grandchild's, as they say themselves; clock ticks are hundredths."""
    command = [sys.executable, "-c", _BURNING]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(_BURNING.replace("\n", "\1") + "\n")
        child.stdin.flush()
        own, grandchild = child.stdout.readline().split()
        tree = ProcessTree({child.pid: "driver"})
        tree.look()
        child.communicate("\n")
    seconds = {"driver": float(own), "workers": float(grandchild), "daemons": 0}
    assert tree.cpu_seconds == pytest.approx(seconds, abs=0.1)
    # What is gone is remembered.
    tree.look()
    assert tree.cpu_seconds == pytest.approx(seconds, abs=0.1)


def test_a_command_is_measured_beside_what_works_for_it() -> None:
    """What others took before is not the command's; what they take meanwhile is."""
    burn = "import time\nwhile time.process_time() < {}: pass\n"
    helper = [sys.executable, "-c", burn.format(0.4) + "print(flush=True)\n" + burn.format(0.9) + "input()"]
    with subprocess.Popen(helper, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        tree = ProcessTree({other.pid: "daemons"})
        command = [sys.executable, "-c", burn.format(0.5) + "time.sleep(2)"]
        found = run_measured(command, os.environ, tree)
        other.communicate("\n")
    assert found == pytest.approx({"driver": 0.5, "workers": 0.0, "daemons": 0.5}, abs=0.15)


def test_a_command_that_fails() -> None:
    """Is no measurement."""
    with pytest.raises(subprocess.CalledProcessError):
        run_measured([sys.executable, "-c", "raise SystemExit(3)"], os.environ)


def turn(before: float, behind: float, actors: float = 2.1) -> Turn:
    """The run takes 2.5 s for each clip."""
    run: dict[Kind, float] = {"driver": 0.1, "workers": actors, "daemons": 0.3}
    return Turn((before, behind), run, {"driver": 5, "workers": 9, "daemons": 1})


def test_ratios_and_their_report() -> None:
    """Daemons count in one of the two; growth is of throughput."""
    spread = Distribution(10, (turn(2.5, 2.0, 9.0), turn(2.02, 1.98)))
    assert spread.best.ratio == pytest.approx(1.1)
    assert spread.best.ratio_with_daemons == pytest.approx(1.25)
    one, two = Asleep(2.0, 0.95, 0.01, 4 << 20), Asleep(3.8, 0.9, 0.01, 4 << 20)
    planned = PlanningCost(PlanCounts(clips_total=10_000), 3.0, 2.0, 5.0, 300_000_000, 200_000_000)
    costs = PipelineCosts(spread, one, two, (1000, one), (planned,))
    assert costs.growth == pytest.approx(1.9)
    text = pipeline_markdown(costs, "idle")
    assert "| 1.10x | 1.25x |" in text
    assert (
        "the loops before and after the run differ by 2.0%, none for the ratio, with fewer than two calm turns." in text
    )
    assert "| 1 | 2.00 | 95.0% | |" in text
    assert "| 2 | 3.80 | 90.0% | 1.90x |" in text
    assert "the calmest of 2 turns" in text
    assert "| planned | 10,000 | 0.20 | 300 |" in text


@pytest.mark.parametrize(
    ("turns", "control", "is_reported"),
    [
        ((turn(2.2, 2.2), turn(2.24, 2.24)), 0.018, True),
        ((turn(2.2, 2.2), turn(2.05, 2.05)), 0.073, False),
        # A turn whose loops differ says nothing about the run.
        ((turn(2.2, 2.2), turn(1.9, 2.2)), None, True),
        ((turn(2.0, 2.2),), None, False),
    ],
)
def test_ratios_need_loops_and_runs_that_agree(
    turns: tuple[Turn, ...], control: float | None, is_reported: bool
) -> None:
    spread = Distribution(1000, turns)
    assert spread.ratio_control == (control if control is None else pytest.approx(control, abs=1e-3))
    assert settled(*spread.controls) is is_reported


def test_a_run_with_other_answers_is_no_rival(tmp_path: Path) -> None:
    """Nor one that gave up a clip, which would have cost it nothing."""

    def output(name: str, *answers: tuple[str, str]) -> Path:
        folder = tmp_path / name / "answers" / f"fingerprint={name}"
        folder.mkdir(parents=True)
        rows = [{"video_id": video, "question_id": "q", "response": response} for video, response in answers]
        pq.write_table(pa.Table.from_pylist(rows), folder / "part-0.parquet")
        return tmp_path / name

    loops = [output("first", ("a", "red"), ("a", "blue")), output("second", ("b", "green"))]
    check_same_answers(loops, output("run", ("b", "green"), ("a", "blue"), ("a", "red")))
    with pytest.raises(ValueError, match="the run has 2 answers, the loop 3; 1 are not in both"):
        check_same_answers(loops, output("fewer", ("b", "green"), ("a", "red")))
    with pytest.raises(ValueError, match="the run has 3 answers, the loop 3; 2 are not in both"):
        check_same_answers(loops, output("other", ("b", "grey"), ("a", "blue"), ("a", "red")))


def test_what_happens_once_is_uncertain_too() -> None:
    """A twentieth of its 15 s, divided by the number of clips."""
    assert Distribution(10, (turn(2.2, 2.2),)).uncertainty == pytest.approx(0.05 * 15 / (10 * 2.5))


@pytest.mark.parametrize("together", [1, 2])
def test_the_loop_gives_the_runs_answers(sample_videos: Path, tmp_path: Path, together: int) -> None:
    """It is the same work: its answers are those of the library called by hand."""
    names = ["moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4"]
    videos = copy_videos(sample_videos, tmp_path, names)
    settings = job(tmp_path)
    assert run_loop(settings, together) > 0
    rows = pq.read_table(tmp_path / "output" / "answers").to_pylist()
    model, preprocessor = load_model("tiny-random"), load_preprocessor("tiny-random")
    expected = []
    for video in sorted(videos.iterdir()):
        clip = decode_clip(
            str(video),
            SamplingConfig(num_frames=6),
            None,
            None,
            transform_for=lambda n: preprocessor.for_video(n).resize,
        )
        compressed = model.compress(model.encode(clip.frames, clip.frame_timestamps), settings.compression)
        questions = ["What happens here?", "How many objects are there?"]
        expected += [answer.response for answer in model.answer(compressed, questions, settings.generation)]
    assert [row["response"] for row in rows] == expected


def test_cached_tokens_are_smaller_than_their_values() -> None:
    """A plain file is the values, two bytes each; the store packs them, and int8 takes less than half."""
    plain, exact, int8 = measure_cache(Patience(least=2, most=2), plain_file)
    assert plain.token_bytes == 2 * 3584
    assert int8.token_bytes < 0.5 * plain.token_bytes < exact.token_bytes < plain.token_bytes
    assert [one.turns for one in (plain, exact, int8)] == [2, 2, 2]
    # A plain file is waited for, and is little work.
    assert plain.write_mb_per_cpu_second > plain.write_mb_per_second > 0
    assert 0 < plain.control < math.inf


def test_the_cache_is_written_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A report and figures; where a control was not reached, nothing is claimed."""
    bench_cache(tmp_path, quick=True, rivals=plain_file)
    text = (tmp_path / "cache.md").read_text()
    assert text in capsys.readouterr().out
    with (tmp_path / "cache.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["kind"] for row in rows] == ["plain file", "bfloat16", "int8"]
    assert all(row["commit"] and row["machine"] for row in rows)
    assert ("not reported" in text) == (float(rows[0]["control"]) > 0.05)


def _measure(*several: Sleeps) -> list[Asleep]:
    """In a process of its own: this one may be connected to another test's Ray."""
    command = [sys.executable, "-m", "jobs.lab.sleeping", json.dumps([asdict(sleeps) for sleeps in several])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return [Asleep(**found) for found in json.loads(done.stdout.splitlines()[-1])]


def test_seconds_of_actors_in_a_time() -> None:
    """Spans that begin before it or end behind it count in part, others not at all."""
    spans = [(0.0, 1.0), (1.5, 3.0), (2.0, 4.5), (9.0, 10.0)]
    assert seconds_within(spans, 0.5, 4.0) == pytest.approx(0.5 + 1.5 + 2.0)
    assert seconds_within([], 0.5, 4.0) == 0


@pytest.mark.slow
def test_runs_share_a_ray_and_are_told_apart() -> None:
    """A loop and two runs beside it on one Ray, then a plan; what the runs take is theirs alone."""
    with ray_session(one_thread()) as session:
        found = measure_distribution(session, 1, 1)
        planned = measure_planning(100, 2, session.environment)
        so_far = session.tree.cpu_seconds
    assert len(found.turns) == 1
    assert min(found.best.loops) > 0
    assert math.isfinite(found.best.control)
    # Imports of the driver, and of actors that load a model each.
    assert found.best.once["driver"] > 1
    assert found.best.once["workers"] > 5
    whole = {kind: found.best.once[kind] + found.best.run[kind] for kind in KINDS}
    assert all(found.best.once[kind] + whole[kind] <= so_far[kind] + 0.1 for kind in KINDS)
    assert planned.counts.clips_total == 100


@pytest.mark.slow
def test_stages_that_sleep() -> None:
    """One graph behind the other runs to its end; encode actors are busy by their own clocks."""
    seconds = {"decode": 0.05, "encode": 0.2, "answer": 0.05}
    nothing, one, two = _measure(
        Sleeps(4, 1, dict.fromkeys(seconds, 0.0), questions=2), Sleeps(20, 1, seconds), Sleeps(40, 2, seconds)
    )
    # Whatever else the machine does, an actor has no more time than there is, and little is left of it.
    for found in (one, two):
        assert found.clips_per_second > 0
        assert 0.2 < found.busy <= 1.0
    assert nothing.busy < 0.2
    assert nothing.driver_bytes > 100_000_000


@pytest.mark.slow
def test_a_pool_grows_between_its_bounds() -> None:
    """`concurrency: [1, 2]`: one encode actor has more to do than it can, and gets another, and no third."""
    # Longer than an actor takes to start on a busy machine.
    seconds = {"decode": 0.05, "encode": 2.5, "answer": 0.05}
    found = _measure(Sleeps(40, 1, seconds, most_encode_actors=2), Sleeps(4, 1, seconds))
    assert [one.encode_actors for one in found] == [2, 1]
