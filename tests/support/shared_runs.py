"""Fixtures: two real runs, each made once, that several test files examine. Copy what a test changes."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import pytest

from jobs.demo import natural_clips
from pipeline.config import JobConfig
from pipeline.run.run import run
from pipeline.run.summary import Progress, RunSummary
from tests.support.runs import copy_videos, job

VIDEOS = ("moving_red_disc.mp4", "scene_cuts.mp4", "short_flash.mp4", "three_boxes.mp4")
QUESTIONS = ["What happens here?", "How many objects are there?"]
NUM_FRAMES = 6
# A natural clip of the samples: 132 frames at 25 per second.
NATURAL = "bigbuckbunny.mp4"
CHOICE = {"question": "Is it day?", "options": ["yes", "no"], "video_id": "natural"}


@dataclass(frozen=True)
class SharedRun:
    """What came of a run.

    Attributes:
        folder: Holds `videos/` and `output/`.
        settings: The job.
        summary: The run's.
        seen: Its progress.
    """

    folder: Path
    settings: JobConfig
    summary: RunSummary
    seen: tuple[Progress, ...]

    @property
    def output(self) -> Path:
        """The job's."""
        return self.folder / "output"

    def copy_output(self, folder: Path) -> Path:
        """Copy the output into a folder, for a test that goes on with it."""
        return Path(shutil.copytree(self.output, folder / "output"))


@pytest.fixture(scope="session")
def finished(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> SharedRun:
    """Four drawn videos, two questions, into a new output."""
    del ray_session
    folder = tmp_path_factory.mktemp("finished")
    copy_videos(sample_videos, folder, VIDEOS)
    return _run(folder, job(folder, questions=QUESTIONS))


@pytest.fixture(scope="session")
def forked(finished: SharedRun, sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> SharedRun:
    """Bad and good rows with another retention, into a copy of `finished`'s output.

    The answered rows are `good`, `span` and, where a package carries it, `natural`.
    """
    folder = tmp_path_factory.mktemp("forked")
    finished.copy_output(folder)
    videos = write_bad_videos(sample_videos, folder)
    questions: list[object] = [*QUESTIONS]
    if natural_clips():
        shutil.copyfile(sample_videos / NATURAL, folder / "videos" / NATURAL)
        videos.write_text(videos.read_text() + f"natural,videos/{NATURAL},,\n")
        questions.append(CHOICE)
    settings = job(folder, videos=str(videos), questions=questions, compression={"retention_ratio": 0.1})
    return _run(folder, settings, fork=True)


def _run(folder: Path, settings: JobConfig, *, fork: bool = False) -> SharedRun:
    seen: list[Progress] = []
    summary = run(settings, fork=fork, on_progress=seen.append)
    return SharedRun(folder, settings, summary, tuple(seen))


def write_bad_videos(samples: Path, folder: Path) -> Path:
    """Write `folder/videos.csv` with two good rows and every kind of bad one, and the files that they name."""
    videos = copy_videos(samples, folder, ["moving_red_disc.mp4"])
    good = (videos / "moving_red_disc.mp4").read_bytes()
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("this is no video\n" * 50)
    (videos / "no_index.mp4").write_bytes(good[: len(good) // 2])
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    quiet = [ffmpeg, "-v", "error", "-y"]
    subprocess.run([*quiet, "-f", "lavfi", "-i", "sine=d=2", str(videos / "audio.mp4")], check=True)
    fast = folder / "fast.mp4"
    original = str(videos / "moving_red_disc.mp4")
    subprocess.run([*quiet, "-i", original, "-c", "copy", "-movflags", "+faststart", str(fast)], check=True)
    (videos / "cut.mp4").write_bytes(fast.read_bytes()[: fast.stat().st_size // 2])
    rows = [
        "video_id,video_path,start_s,end_s",
        "good,videos/moving_red_disc.mp4,,",
        "span,videos/moving_red_disc.mp4,2,4",
        "missing,videos/nowhere.mp4,,",
        "empty,videos/empty.mp4,,",
        "text,videos/text.mp4,,",
        "audio,videos/audio.mp4,,",
        "no_index,videos/no_index.mp4,,",
        "cut,videos/cut.mp4,,",
        "late,videos/moving_red_disc.mp4,100,",
        "backwards,videos/moving_red_disc.mp4,4,2",
        "pathless,,,",
        "protocol,nosuch://bucket/a.mp4,,",
    ]
    path = folder / "videos.csv"
    path.write_text("\n".join(rows) + "\n")
    return path
