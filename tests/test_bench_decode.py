"""`bench decode`: which ways it measures, and that each really decodes what it counts."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.bench import decode
from jobs.bench.decode import bench_decode


def test_every_decoder_of_a_file_is_measured(
    sample_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 32 and at all frames, beside ffmpeg, which always decodes all; the table is printed and written."""
    monkeypatch.setattr(decode, "_ROUNDS", 1)
    speeds = bench_decode(sample_videos / "moving_red_disc.mp4", tmp_path / "out")
    ways = ["decord", "decord, own process", "pyav", "pyav, own process"]
    assert [(speed.decoder, speed.num_frames) for speed in speeds] == [
        ("ffmpeg to null", 72),
        *((way, 32) for way in ways),
        *((way, 72) for way in ways),
    ]
    assert all(speed.frames_per_second == speed.num_frames / speed.seconds > 0 for speed in speeds)
    text = (tmp_path / "out" / "decode.md").read_text()
    assert "moving_red_disc.mp4 (auto: decord)" in text
    assert text.count("\n| pyav, own process |") == 2
