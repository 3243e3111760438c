"""`flashvid probe`: what a run would read, or the run's own message."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from flashvid.errors import ConfigurationError
from jobs.cli.main import app
from pipeline.config import SamplingConfig
from pipeline.errors import SourceUnreachableError
from pipeline.video.clip_frames import decode_clip
from pipeline.video.probing import read_probe
from tests.support.web_server import web_server


def probe(*words: object) -> Result:
    """What the command prints."""
    return CliRunner().invoke(app, ["probe", *map(str, words)])


def test_the_frames_are_those_of_a_run(sample_videos: Path, tmp_path: Path) -> None:
    """Their times, and their pictures to the pixel."""
    path = sample_videos / "three_boxes.mp4"
    span = ("--start-s", 1.0, "--end-s", 3.0)
    done = probe(path, "--num-frames", 5, *span, "--output", tmp_path / "frames", "--json")
    assert done.exit_code == 0, done.output
    found, header = json.loads(done.stdout), read_probe(str(path)).header
    right = decode_clip(str(path), SamplingConfig(num_frames=5), 1.0, 3.0)
    assert found["frame_timestamps"] == right.frame_timestamps.tolist()
    assert (found["codec"], found["num_frames"], found["duration_s"]) == ("h264", header.num_frames, header.duration_s)
    names = sorted(file.name for file in (tmp_path / "frames").iterdir())
    assert names == [f"frame-{number:04d}.png" for number in range(5)]
    for name, frame in zip(names, right.frames, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "frames" / name)), frame)


def test_a_person_reads_which_decoder_and_why(sample_videos: Path) -> None:
    """Eight frames, if nothing else is asked for."""
    done = probe(sample_videos / "three_boxes.mp4")
    assert "decord: its frames are exact" in done.stdout
    assert len(done.stdout.split("frame_timestamps", 1)[1].split(",")) == 8
    done = probe(sample_videos / "three_boxes.mp4", "--fps", 2)
    assert "0.500" in done.stdout


def test_a_remote_file_is_read_by_ranges(sample_videos: Path) -> None:
    """The same as a local one."""
    path = sample_videos / "three_boxes.mp4"
    with web_server({"a.mp4": path.read_bytes()}) as server:
        there = probe(f"{server.url}/a.mp4", "--json")
        assert json.loads(there.stdout) == json.loads(probe(path, "--json").stdout)
    assert isinstance(probe(f"{server.url}/a.mp4").exception, SourceUnreachableError)


@pytest.mark.parametrize(
    ("content", "words", "said"),
    [
        (b"no video", (), "UnreadableVideoError"),
        (b"", (), "the file is empty"),
        (None, (), "VideoNotFoundError"),
        ("sample", ("--start-s", 100), "start_s is 100.0, but the video ends at"),
    ],
)
def test_what_a_run_would_refuse(
    sample_videos: Path, tmp_path: Path, content: bytes | str | None, words: tuple[object, ...], said: str
) -> None:
    """Exit code 1 and the run's own message; as JSON, too."""
    path = tmp_path / "a.mp4"
    if content == "sample":
        path = sample_videos / "three_boxes.mp4"
    elif isinstance(content, bytes):
        path.write_bytes(content)
    done = probe(path, *words)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr
    refused = probe(path, *words, "--json")
    assert refused.exit_code == 1
    assert set(json.loads(refused.stdout)) == {"error_type", "error_message"}


def test_two_ways_to_sample_are_refused() -> None:
    """As in a job."""
    assert isinstance(probe("a.mp4", "--fps", 1, "--num-frames", 2).exception, ConfigurationError)
