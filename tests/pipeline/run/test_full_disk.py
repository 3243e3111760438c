"""A run whose disk is full or read-only: exit code 3, no attempt counted, and the same command works afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.full_disk import needs_mounts, on_small_disk
from tests.support.runs import copy_videos, job, table

pytestmark = [pytest.mark.slow, needs_mounts]

_NAMES = ["moving_red_disc.mp4", "three_boxes.mp4", "scene_cuts.mp4"]
# The first run on the small disk, and the second after the disk has been made larger.
_TWICE = """
{run} run {job}; echo "first: $?"
find {output}/answers {output}/failures -name "*.parquet" 2>/dev/null | wc -l
mount -o remount,rw,size=64m {disk}
{run} run {job} --json > {summary}; echo "second: $?"
"""


@pytest.fixture
def served(sample_videos: Path, tmp_path: Path) -> Iterator[str]:
    """Videos behind HTTP, which a run fetches into its staging folder."""
    copy_videos(sample_videos, tmp_path, _NAMES)
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split("port ")[1].split()[0]
        yield f"http://127.0.0.1:{port}/videos"
        server.kill()


def run_twice(folder: Path, disk: Path, size: str, *, read_only: bool = False) -> tuple[list[str], dict[str, object]]:
    """Run a job on a small disk and again on a larger one; return what was said, and the second run's summary."""
    disk.mkdir(exist_ok=True)
    summary = folder / "summary.json"
    script = _TWICE.format(
        run=f"{sys.executable} -m jobs.cli.main",
        job=folder / "job.json",
        output=folder / "output",
        disk=disk,
        summary=summary,
    )
    done = on_small_disk(disk, "sh", "-c", script, size=size, read_only=read_only)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()], json.loads(summary.read_text() or "{}")


@pytest.mark.parametrize(
    ("size", "is_read_only", "said"), [("24k", False, "No space left"), ("64k", True, "Read-only")]
)
def test_a_cache_that_takes_no_tokens(
    sample_videos: Path, tmp_path: Path, size: str, is_read_only: bool, said: str
) -> None:
    """Answers that the run could make stay, and every clip is answered by the next run."""
    copy_videos(sample_videos, tmp_path, _NAMES)
    settings = job(tmp_path, cache=str(tmp_path / "cache"))
    (tmp_path / "job.json").write_text(settings.model_dump_json(exclude_unset=True))
    lines, summary = run_twice(tmp_path, tmp_path / "cache", size, read_only=is_read_only)
    assert "first: 3" in lines
    assert any(line.startswith(f"DiskError: {tmp_path}/cache: disk error: {said}") for line in lines), lines
    assert "second: 0" in lines
    assert (summary["answers_new"], summary["failures_new"], summary["answers_exhausted"]) == (6, 0, 0)
    assert table(tmp_path / "output", "failures") == []
    assert {row["attempt"] for row in table(tmp_path / "output", "answers")} == {1}


def test_a_staging_folder_without_room(served: str, tmp_path: Path) -> None:
    """A video that can't be fetched for lack of room is not at fault."""
    staging = tmp_path / "staging"
    (tmp_path / "videos.csv").write_text(
        "video_id,video_path\n" + "".join(f"{name},{served}/{name}\n" for name in _NAMES)
    )
    settings = job(tmp_path, videos=str(tmp_path / "videos.csv"))
    resources = {"staging": {"directory": str(staging)}, **settings.resources.model_dump(exclude_unset=True)}
    settings = job(tmp_path, videos=str(tmp_path / "videos.csv"), resources=resources)
    (tmp_path / "job.json").write_text(settings.model_dump_json(exclude_unset=True))
    lines, summary = run_twice(tmp_path, staging, "8k")
    assert "first: 3" in lines
    assert any("disk error: No space left on device" in line for line in lines), lines
    assert "second: 0" in lines
    assert (summary["answers_new"], summary["failures_new"]) == (6, 0)
    assert table(tmp_path / "output", "failures") == []
