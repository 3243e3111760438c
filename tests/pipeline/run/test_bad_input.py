"""Bad videos become rows of `failures/`; every other video is answered."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from jobs.demo import natural_clips
from pipeline.errors import TooManyFailuresError
from pipeline.run.run import run
from tests.support.outputs import make_output
from tests.support.runs import job, table
from tests.support.shared_runs import QUESTIONS, SharedRun, write_bad_videos

pytestmark = pytest.mark.usefixtures("ray_session")


# Stage, type, and what the message names, by video_id.
EXPECTED = {
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


@pytest.fixture(scope="module")
def bad_videos(sample_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A videos table with two good rows and every kind of bad one."""
    return write_bad_videos(sample_videos, tmp_path_factory.mktemp("bad"))


def test_each_bad_video_is_a_failure_with_its_cause(forked: SharedRun) -> None:
    """Stage, type, kind and message name what is wrong; nothing is lost."""
    answers = [
        row for row in table(forked.output, "answers") if row["fingerprint"] == forked.summary.answers_fingerprint
    ]
    assert {row["video_id"] for row in answers} - {"natural"} == {"good", "span"}
    assert forked.summary.answers_new == len(answers)
    assert len(answers) == 4 + 3 * bool(natural_clips())

    failures = {row["video_id"]: row for row in table(forked.output, "failures")}
    assert failures.keys() == EXPECTED.keys()
    for video_id, (stage, error_type, part) in EXPECTED.items():
        row = failures[video_id]
        kind = "transient" if video_id == "protocol" else "permanent"
        assert (row["stage"], row["error_type"], row["error_kind"]) == (stage, error_type, kind), row
        assert part in row["error_message"], row
        assert row["question_id"] is None
        assert row["attempt"] == 1
    assert forked.summary.failures_new == len(EXPECTED)


def test_only_what_may_succeed_is_tried_again(forked: SharedRun, tmp_path: Path) -> None:
    """A transient failure by each run; a repaired source and a repaired row without being asked."""
    output = forked.copy_output(tmp_path)
    again = run(forked.settings.model_copy(update={"output": str(output)}))
    assert (again.clips_decoded, again.failures_new, again.answers_exhausted) == (0, 1, 2 * len(EXPECTED) - 2)

    videos = forked.folder / "videos"
    table_of_repaired = forked.folder / "repaired.csv"
    table_of_repaired.write_text(
        "video_id,video_path,start_s,end_s\nempty,videos/empty.mp4,,\nbackwards,videos/moving_red_disc.mp4,2,5\n"
    )
    with _replaced(videos / "empty.mp4", (videos / "moving_red_disc.mp4").read_bytes()):
        make_output(
            forked.settings.model_copy(
                update={"output": str(output), "videos": str(table_of_repaired), "questions": _questions(QUESTIONS)}
            )
        )
    answered = [row["video_id"] for row in table(output, "answers") if row["response"].startswith("of ")]
    assert sorted(answered) == ["backwards", "backwards", "empty", "empty"]


def _questions(texts: list[str]) -> Any:
    return job(Path(), questions=texts).questions


@contextmanager
def _replaced(path: Path, content: bytes) -> Iterator[None]:
    """Another file under the same name, for as long as the block runs."""
    before, stat = path.read_bytes(), path.stat()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


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
