"""The JSON lines of a run: whose they are, and what is never in them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.log import RunLog
from pipeline.run.run import run
from tests.support.runs import job


def test_a_line() -> None:
    """Time, run and event first; texts inside of lists are redacted as well."""
    lines: list[str] = []
    log = RunLog("run-1", lines.append, now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))
    log.notice("source changed: https://host/v.mp4?sig=abc")
    assert [json.loads(line) for line in lines] == [
        {
            "time": "2026-01-02T03:04:05.000+00:00",
            "run_id": "run-1",
            "event": "notice",
            "message": "source changed: https://host/v.mp4?***",
        }
    ]


@pytest.mark.slow
def test_the_log_of_a_run(sample_videos: Path, tmp_path: Path) -> None:
    """Every answered question of every clip once, each failure with its ids, and the end."""
    videos = tmp_path / "videos"
    videos.mkdir()
    (videos / "disc.mp4").write_bytes((sample_videos / "moving_red_disc.mp4").read_bytes())
    (videos / "broken.mp4").write_bytes(b"no video")
    lines: list[str] = []
    summary = run(job(tmp_path, videos=str(videos)), on_log=lines.append)
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]

    assert {event["run_id"] for event in events} == {summary.run_id}
    answered = [
        (event["video_id"], question)
        for event in events
        if event["event"] == "clip"
        for question in event["question_ids"]
    ]
    assert len(answered) == len(set(answered)) == summary.answers_new > 0
    assert {video for video, _ in answered} == {"disc.mp4"}
    (failure,) = (event for event in events if event["event"] == "failure")
    assert failure["video_id"] == "broken.mp4"
    assert failure["clip_id"]
    assert failure["error_type"]
    assert sum(event["answers"] for event in events if event["event"] == "committed") == summary.answers_new
    assert events[-1]["event"] == "ended"
