"""Bad videos become rows of `failures/`; every other video is answered."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import pytest

from pipeline.errors import TooManyFailuresError
from pipeline.run.run import run
from tests.support.runs import copy_videos, job, table

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def bad_videos(sample_videos: Path, tmp_path: Path) -> Path:
    """A videos table with one good row and every kind of bad one."""
    videos = copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4"])
    good = (videos / "moving_red_disc.mp4").read_bytes()
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("this is no video\n" * 50)
    (videos / "no_index.mp4").write_bytes(good[: len(good) // 2])
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    quiet = [ffmpeg, "-v", "error", "-y"]
    subprocess.run([*quiet, "-f", "lavfi", "-i", "sine=d=2", str(videos / "audio.mp4")], check=True)
    fast = tmp_path / "fast.mp4"
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
    path = tmp_path / "videos.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_each_bad_video_is_a_failure_with_its_cause(bad_videos: Path, tmp_path: Path) -> None:
    """Stage, type, kind and message name what is wrong; nothing is lost and nothing is tried twice."""
    videos = job(tmp_path, videos=str(bad_videos))
    summary = run(videos)
    assert {row["video_id"] for row in table(tmp_path / "output", "answers")} == {"good", "span"}
    assert summary.answers_new == 4

    failures = {row["video_id"]: row for row in table(tmp_path / "output", "failures")}
    expected = {
        "missing": ("probe", "VideoNotFoundError", "nowhere.mp4"),
        "empty": ("probe", "UnreadableVideoError", "empty"),
        "text": ("probe", "UnreadableVideoError", "not a readable video"),
        "audio": ("probe", "UnreadableVideoError", "no video stream, only audio"),
        "no_index": ("probe", "UnreadableVideoError", "not a readable video"),
        "cut": ("probe", "UnreadableVideoError", "cut short"),
        "late": ("probe", "UnreadableVideoError", "start_s is 100"),
        "backwards": ("probe", "InputRowError", "end_s (2.0) is not after start_s (4.0)"),
        "pathless": ("probe", "InputRowError", "no video_path"),
        "protocol": ("probe", "SourceUnreachableError", "nosuch"),
    }
    assert failures.keys() == expected.keys()
    for video_id, (stage, error_type, part) in expected.items():
        row = failures[video_id]
        kind = "transient" if video_id == "protocol" else "permanent"
        assert (row["stage"], row["error_type"], row["error_kind"]) == (stage, error_type, kind), row
        assert part in row["error_message"], row
        assert row["question_id"] is None
        assert row["attempt"] == 1
    assert summary.failures_new == len(expected)

    # Only the transient one is tried again.
    again = run(videos)
    assert (again.clips_decoded, again.failures_new, again.answers_exhausted) == (0, 1, 2 * len(expected) - 2)

    # A repaired source, and a repaired row, are planned again without being asked.
    (tmp_path / "videos" / "empty.mp4").write_bytes((tmp_path / "videos" / "moving_red_disc.mp4").read_bytes())
    bad_videos.write_text(bad_videos.read_text().replace("moving_red_disc.mp4,4,2", "moving_red_disc.mp4,2,5"))
    assert run(videos).answers_new == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"on_error": "raise"}, "on_error is raise"), ({"max_failures": 3}, "more than max_failures"),
     ({"max_failures": 0.5}, "7 clips of 12 failed, more than max_failures")],
)  # fmt: skip
def test_a_run_that_may_not_fail_so_often_stops(
    bad_videos: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    """With what it found committed: nothing has been decoded, and the next run does not look at these files again."""
    with pytest.raises(TooManyFailuresError, match=message):
        run(job(tmp_path, videos=str(bad_videos), **settings))
    failures, allowed = table(tmp_path / "output", "failures"), settings.get("max_failures", 0)
    assert len(failures) == 1 + (allowed * 12 if allowed < 1 else allowed)
    assert table(tmp_path / "output", "answers") == []
