"""`bench decode`: which ways it measures, that each really decodes what it counts, and whose time counts."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.bench.cost import spent
from jobs.bench.video_decoding import QUICK, bench_decode


def test_every_decoder_of_a_file_is_measured(sample_videos: Path, tmp_path: Path) -> None:
    """At 32 and at all frames, beside ffmpeg, which always decodes all; the table is printed and written."""
    speeds = bench_decode(sample_videos / "moving_red_disc.mp4", tmp_path / "out", QUICK)
    ways = ["decord", "decord, own process", "pyav", "pyav, own process"]
    assert [(speed.decoder, speed.num_frames) for speed in speeds] == [
        ("ffmpeg to null", 72),
        *((way, 32) for way in ways),
        *((way, 72) for way in ways),
    ]
    assert all(speed.seconds > 0 and speed.cpu_seconds > 0 for speed in speeds)
    text = (tmp_path / "out" / "decode.md").read_text()
    assert "moving_red_disc.mp4 (auto: decord)" in text
    assert text.count("\n| pyav, own process |") == 2
    with (tmp_path / "out" / "decode.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [row["decoder"] for row in rows] == [speed.decoder for speed in speeds]
    assert all(row["commit"] and row["machine"] for row in rows)


_BURN = "import time\nwhile time.process_time() < {}: pass\n"


def test_time_of_children_counts() -> None:
    """Of one that ends, and of one that goes on, from when it was asked; waiting is no CPU time."""
    ended = spent(lambda: subprocess.run([sys.executable, "-c", _BURN.format(0.4)], check=True))
    assert ended.cpu == pytest.approx(0.4, abs=0.1)
    waiting = spent(lambda: subprocess.run([sys.executable, "-c", "import time; time.sleep(0.4)"], check=True))
    assert waiting.cpu < 0.2
    assert waiting.wall > 0.4
    living = [sys.executable, "-c", _BURN.format(0.3) + "print(flush=True)\ninput()\n" + _BURN.format(0.8) + "print()"]
    with subprocess.Popen(living, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        go, answered = child.stdin.fileno(), child.stdout.fileno()
        # Read before it ends: then it would count as ended, too.
        found = spent(lambda: (os.write(go, b"\n"), os.read(answered, 1)), child.pid)
    assert found.cpu == pytest.approx(0.5, abs=0.1)
