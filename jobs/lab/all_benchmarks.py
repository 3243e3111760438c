"""What `flashvid bench all` runs in a checkout besides the rest."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.bench.video_decoding import PATIENCE, QUICK, bench_decode
from jobs.lab import answers as scopes
from jobs.lab.answers_command import bench_answers
from jobs.lab.sample_videos import write_textures

# Frames of the video that is decoded: half a minute, and a few seconds.
_DECODE_FRAMES, _QUICK_DECODE_FRAMES = 360, 48


def answers(folder: Path, quick: bool) -> None:
    """Measure answers, briefly."""
    bench_answers(folder, scopes.QUICK if quick else scopes.BRIEF)


def decode(folder: Path, quick: bool) -> None:
    """Measure the decoding of a generated video."""
    with TemporaryDirectory(prefix="flashvid-bench-") as name:
        video = Path(name) / "clip.mp4"
        write_textures(video, _QUICK_DECODE_FRAMES if quick else _DECODE_FRAMES)
        bench_decode(video, folder, QUICK if quick else PATIENCE)
