"""The JSON lines of a run: whose they are, and what is never in them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.run.log import RunLog
from pipeline.run.run import run
from pipeline.store.redaction import redacted
from tests.support.runs import job

SECRET = "5ecret/Zz+9"  # noqa: S105 - of nobody


@pytest.mark.parametrize(
    "text",
    [
        f"GET https://bucket.s3.amazonaws.com/a.mp4?X-Amz-Credential=c&X-Amz-Signature={SECRET} gave 403",
        f"HTTPS://account.blob.core.windows.net/c/a.mp4?sv=2024&sig={SECRET}",
        f"s3://user:{SECRET.replace('/', '')}@host/a.mp4",
        f"Authorization: Bearer {SECRET}",
        f"{{'aws_secret_access_key': '{SECRET}', 'n': 1}}",
        f"RAY_AUTH_TOKEN={SECRET}",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    """Signed URLs, passwords, headers, settings by name."""
    assert SECRET in text or SECRET.replace("/", "") in text
    clean = redacted(text)
    assert SECRET not in clean
    assert SECRET.replace("/", "") not in clean
    assert "***" in clean


def test_keys_are_known_by_their_form() -> None:
    """Also where nothing names them."""
    assert redacted("ran as ASIAABCDEFGHIJKLMNOP, hf_" + "a" * 30) == "ran as ***, ***"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/videos/a b.mp4 is no video: 17 packets",
        "what is shown? 12 tokens of 40, max_batch_tokens=40",
        "https://host/a.mp4, b@c",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    """Paths and sentences are what the log is for."""
    assert redacted(text) == text


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
