"""`bench pipeline` and `bench cache`: processes are found and told apart, figures are what their parts make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flashvid.models import load_model, load_preprocessor
from jobs.bench.cache import measure_cache
from jobs.bench.pipeline import Distribution, PipelineCosts, pipeline_markdown
from jobs.bench.plain_loop import run_loop
from jobs.bench.planning import PlanningCost
from jobs.bench.process_tree import Kind, look, run_measured
from jobs.bench.sleeping import Asleep, Sleeps
from pipeline.config import SamplingConfig
from pipeline.decoding import decode_clip
from pipeline.planning import PlanCounts
from tests.runs import copy_videos, job

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
print(time.process_time(), child_seconds.strip() if child else "", child.pid if child else "", flush=True)
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
        own, grandchild, pid = child.stdout.readline().split()
        found: dict[int, tuple[Kind, float]] = {}
        look(child.pid, found)
        child.communicate("\n")
    assert found[child.pid] == ("driver", pytest.approx(float(own), abs=0.1))
    assert found[int(pid)] == ("workers", pytest.approx(float(grandchild), abs=0.1))
    assert os.getpid() not in found


def test_a_command_that_fails() -> None:
    """Is no measurement."""
    with pytest.raises(subprocess.CalledProcessError):
        run_measured([sys.executable, "-c", "raise SystemExit(3)"], os.environ)


def test_ratios_and_their_report() -> None:
    """Daemons count in one of the two; growth is of throughput."""
    spread = Distribution(
        10, 2.0, {"driver": 0.1, "workers": 2.1, "daemons": 0.3}, {"driver": 5, "workers": 9, "daemons": 1}
    )
    assert spread.ratio == pytest.approx(1.1)
    assert spread.ratio_with_daemons == pytest.approx(1.25)
    one, two = Asleep(2.0, 0.95, 0.01, 4 << 20), Asleep(3.8, 0.9, 0.01, 4 << 20)
    planned = PlanningCost(PlanCounts(clips_total=10_000), 3.0, 2.0, 5.0, 300_000_000, 200_000_000)
    costs = PipelineCosts(spread, one, two, (1000, one), (planned,))
    assert costs.growth == pytest.approx(1.9)
    text = pipeline_markdown(costs, "idle")
    assert "| 1.10x | 1.25x | 1.25x |" in text
    assert "| planned | 10,000 | 0.20 | 300 |" in text


def test_the_loop_gives_the_runs_answers(sample_videos: Path, tmp_path: Path) -> None:
    """It is the same work: its answers are those of the library called by hand."""
    videos = copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4", "three_boxes.mp4"])
    settings = job(tmp_path)
    assert run_loop(settings) > 0
    rows = pq.read_table(tmp_path / "output" / "answers.parquet").to_pylist()
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
    plain, exact, int8 = measure_cache(1)
    assert plain.token_bytes == 2 * 3584
    assert int8.token_bytes < 0.5 * plain.token_bytes < exact.token_bytes < plain.token_bytes


def _measure(sleeps: Sleeps) -> Asleep:
    """In a process of its own: this one may be connected to another test's Ray."""
    command = [sys.executable, "-m", "jobs.bench.sleeping", json.dumps(asdict(sleeps))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return Asleep(**json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.slow
def test_stages_that_sleep() -> None:
    """The graph runs to its end with stages of ours, and no actor sleeps longer than there is time."""
    found = _measure(Sleeps(12, 1, {"decode": 0.05, "encode": 0.2, "answer": 0.05}))
    assert found.clips_per_second > 0
    assert found.busy == pytest.approx(0.2 * found.clips_per_second)
    assert found.driver_bytes > 100_000_000


@pytest.mark.slow
def test_a_pool_grows_between_its_bounds() -> None:
    """`concurrency: [1, 2]`: one encode actor has more to do than it can, and gets another, and no third."""
    # Longer than an actor takes to start on a busy machine.
    seconds = {"decode": 0.05, "encode": 2.5, "answer": 0.05}
    assert _measure(Sleeps(40, 1, seconds, most_encode_actors=2)).encode_actors == 2
    assert _measure(Sleeps(4, 1, seconds)).encode_actors == 1
