"""Kill the driver and each kind of actor in mid-run: the tables end up as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from jobs.cli.main import app
from pipeline.run.run import run
from pipeline.run.summary import Progress
from tests.support.runs import comparable, copy_videos, job, table
from tests.support.shared_runs import SharedRun

CLIPS, MANY_CLIPS, QUESTIONS, FRAMES = 10, 24, 2, 16
SAMPLES = ("moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4", "short_flash.mp4")


def _undisturbed(samples: Path, folder: Path, clips: int) -> Path:
    """Fill a folder with videos and the output of a run that nobody killed."""
    videos = copy_videos(samples, folder, [])
    for index in range(clips):
        (videos / f"{index:02}.mp4").write_bytes((samples / SAMPLES[index % len(SAMPLES)]).read_bytes())
    assert run(_job(folder, "undisturbed")).answers_new == clips * QUESTIONS
    return folder


def _job(folder: Path, output: str) -> Any:
    return job(folder, output=str(folder / output), sampling={"num_frames": FRAMES})


def _without_place(answers: list[dict[str, Any]]) -> list[Any]:
    """What must be equal between two outputs: everything but the folder columns."""
    places = ("fingerprint", "shard")
    return comparable([{name: value for name, value in row.items() if name not in places} for row in answers])


def _at_work(stage: str) -> psutil.Process | None:
    """A stage's actor that has work in its hands. Ray's processes are children of ours: nobody else's are found."""
    for process in psutil.Process().children(recursive=True):
        # Ray's title of an actor names the method that it is running; other helpers of Ray come and go.
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if f"{stage}Stage" in title and "submit" in title:
                return process
    return None


@pytest.fixture(scope="module")
def undisturbed(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """The output of a run that nobody killed, and its videos."""
    del ray_session
    return _undisturbed(sample_videos, tmp_path_factory.mktemp("kill"), CLIPS)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("stage", ["Decode", "Encode", "Answer"])
def test_killing_an_actor_loses_and_repeats_nothing(undisturbed: Path, stage: str, by: signal.Signals) -> None:
    """Ray restarts the actor, the clip in its hands is tried again, and no finished clip is.

    SIGTERM is how a node that is taken away says so.
    """
    killed: list[int] = []

    def kill_once(_: Progress) -> None:
        # At work: a stage may have ended before the first answers are there, and nothing would take its actor's place.
        if not killed and (actor := _at_work(stage)):
            killed.append(actor.pid)
            actor.send_signal(by)

    output = f"{by.name}-{stage}"
    summary = run(_job(undisturbed, output), on_progress=kill_once)
    assert killed
    assert (summary.answers_new, summary.failures_new) == (CLIPS * QUESTIONS, 0)
    # Work in the dead process's hands may be repeated; work that was handed on is not.
    assert CLIPS <= summary.clips_decoded <= CLIPS + 1
    assert CLIPS <= summary.encoder_calls + (stage == "Encode") <= CLIPS + 1
    pids = [worker.pid for worker in summary.workers if worker.stage == stage.lower()]
    assert len(pids) == 2  # the one that ended, and the one after it
    assert set(killed) < set(pids)
    _assert_same_tables(undisturbed / "undisturbed", undisturbed / output)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_killing_an_actor_with_several_clips_in_its_hands(undisturbed: Path) -> None:
    """All clips have their tokens, so eight are answered at a time; the answers are those of one clip at a time."""
    killed: list[int] = []

    def kill_once(progress: Progress) -> None:
        if not killed and not progress.clips_done and (actor := _at_work("Answer")):
            killed.append(actor.pid)
            actor.kill()

    batched = _job(undisturbed, "batched").model_copy(update={"cache": str(undisturbed / "undisturbed")})
    summary = run(batched, on_progress=kill_once)
    assert killed
    assert (summary.answers_new, summary.failures_new, summary.encoder_calls) == (CLIPS * QUESTIONS, 0, 0)
    assert [worker.pid for worker in summary.workers if worker.pid in killed]
    answers = (_without_place(table(undisturbed / name, "answers")) for name in ("batched", "undisturbed"))
    assert next(answers) == next(answers)


def test_killing_the_driver(finished: SharedRun, tmp_path: Path) -> None:
    """SIGKILL as soon as a clip's answers are committed; the same command does what is left and no more.

    The driver that dies has a Ray of its own, as a user's has; the second run is in this process, on the tests' Ray.
    """
    output, total = tmp_path / "output", finished.summary.answers_new
    job_file = tmp_path / "job.json"  # JSON is YAML
    settings = finished.settings.model_copy(update={"output": str(output)})
    job_file.write_text(settings.model_dump_json(exclude_none=True))
    driver = subprocess.run(
        [sys.executable, "-m", "tests.support.mortal_driver", "1", str(job_file)],
        env=_without_ray() | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )
    assert driver.returncode == -signal.SIGKILL
    answered, encoded = _answers(output), len(table(output, "tokens"))
    assert (answered, list((output / "runs").glob("*.end.json"))) == (QUESTIONS, [])
    assert encoded >= 1
    done = CliRunner().invoke(app, ["run", str(job_file)])
    assert done.exit_code == 0, done.output
    _assert_resumed(output, answered, total, clips=total // QUESTIONS, encoded=encoded)
    _assert_same_tables(finished.output, output)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_killing_the_driver_five_times_in_a_row(sample_videos: Path, tmp_path: Path) -> None:
    """SIGKILL at random progress counts, five runs in a row, then one that may end."""
    _kill_and_resume(_undisturbed(sample_videos, tmp_path, MANY_CLIPS), kills=5, seed=11)


def _kill_and_resume(folder: Path, *, kills: int, seed: int) -> None:
    output = "driver"
    settings = _job(folder, output)
    clips = len(list((folder / "videos").iterdir()))
    total = clips * QUESTIONS
    job_file = folder / f"{output}.json"  # JSON is YAML
    job_file.write_text(settings.model_dump_json(exclude_none=True))
    chance = random.Random(seed)  # noqa: S311 - when to kill, not a secret
    for _ in range(kills):
        done = _answers(folder / output)
        # A clip's answers come together. Five kills leave room for the clips that arrive while a kill is on its way.
        target = done + QUESTIONS * chance.randint(1, 2)
        with _start(job_file) as driver:
            _wait_for_answers(folder / output, target, driver)
            driver.kill()
        assert driver.returncode == -signal.SIGKILL
    answered, encoded = _answers(folder / output), len(table(folder / output, "tokens"))
    assert 0 < answered < total
    with _start(job_file) as driver:
        assert driver.wait(timeout=120) == 0
    _assert_resumed(folder / output, answered, total, clips=clips, encoded=encoded)
    _assert_same_tables(folder / "undisturbed", folder / output)


def _assert_resumed(output: Path, answered: int, total: int, *, clips: int, encoded: int) -> None:
    """Of all runs in the output, one has ended: it made what the others had not."""
    (ended,) = (output / "runs").glob("*.end.json")
    end = json.loads(ended.read_text())
    assert end["answers_before"] == answered
    assert end["answers_new"] == total - answered
    # Tokens of clips whose driver died are found again; a leftover actor may have committed one more since.
    assert end["clips_decoded"] <= clips - encoded
    assert end["failures_new"] == 0


def _start(job_file: Path) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "flashvid"), "run", str(job_file)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_without_ray())


def _without_ray() -> dict[str, str]:
    """The environment of a process that does not know of the tests' Ray."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def _wait_for_answers(output: Path, count: int, driver: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while _answers(output) < count:
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.02)


def _answers(output: Path) -> int:
    """Committed answers; with `commit.rows` 1 every part holds one clip's."""
    return QUESTIONS * len(list((output / "answers").rglob("part-*.parquet")))


def _assert_same_tables(undisturbed: Path, output: Path) -> None:
    for name in ("answers", "tokens"):
        assert _without_place(table(output, name)) == _without_place(table(undisturbed, name)), name
    assert table(output, "failures") == []
