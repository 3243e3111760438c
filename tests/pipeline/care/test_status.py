"""`flashvid status`: how an output stands, from its tables alone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli.main import app
from pipeline.clip import Clip
from pipeline.config import JobConfig
from pipeline.errors import WorkerDiedError
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage
from tests.support.outputs import job_fingerprints, make_output
from tests.support.runs import copy_videos, job


@pytest.fixture
def output(sample_videos: Path, tmp_path: Path) -> JobConfig:
    """Of four answers one has failed."""
    copy_videos(sample_videos, tmp_path, ["three_boxes.mp4", "short_flash.mp4"])

    def respond(clip: Clip, text: str) -> str | Exception:
        is_bad = (clip.video_id, text) == ("three_boxes.mp4", "What happens here?")
        return WorkerDiedError("gone") if is_bad else "a box"

    asked = job(tmp_path)
    make_output(asked, respond, encode=False, run_id="20260101T000001-aaaaaaaa")
    return asked


def status(asked: JobConfig) -> dict[str, str]:
    """The rows that the command prints."""
    done = CliRunner().invoke(app, ["status", asked.output])
    assert done.exit_code == 0, done.output
    return {name.strip(): value.strip() for name, value in re.findall(r"│ (\S[^│]*)│([^│]*)│", done.output)}


def test_a_run_that_ended(output: JobConfig) -> None:
    """Answers of all that there are to be, and failures by cause."""
    rows = status(output)
    assert rows["latest run"] == "20260101T000001-aaaaaaaa: completed"
    assert rows["answers"] == "3 of 4"
    assert rows["failures"] == "1 WorkerDiedError (transient), stage answer"
    assert "to continue" not in rows


def test_a_run_that_has_not_ended(output: JobConfig) -> None:
    """It may have more to answer than the one before: that one's number is not its own."""
    storage = Storage(output.output)
    RunRecords(storage).start("20260101T000002-bbbbbbbb", output, job_fingerprints(output))
    rows = status(output)
    assert rows["latest run"].startswith("20260101T000002-bbbbbbbb: ")
    assert rows["answers"] == "3; of 4 in the last ended run"
