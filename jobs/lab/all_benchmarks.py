"""Benchmarks that `flashvid bench all` runs only in a checkout."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from jobs.bench.reports import Benchmark
from jobs.bench.video_decoding import PATIENCE, QUICK, bench_decode
from jobs.lab import answers
from jobs.lab.answers_command import bench_answers
from jobs.lab.sample_videos import write_textures

# Frames of the decoded video: 30 s, and 4 s.
_DECODE_FRAMES, _QUICK_DECODE_FRAMES = 360, 48


def all_benchmarks(quick: bool) -> Mapping[str, Benchmark]:
    """Return benchmarks by name: answers, briefly, and the decoding of a generated video."""

    def decode(folder: Path) -> None:
        with TemporaryDirectory(prefix="flashvid-bench-") as name:
            video = Path(name) / "clip.mp4"
            write_textures(video, _QUICK_DECODE_FRAMES if quick else _DECODE_FRAMES)
            bench_decode(video, folder, QUICK if quick else PATIENCE)

    return {"answers": partial(bench_answers, scope=answers.QUICK if quick else answers.BRIEF), "decode": decode}
