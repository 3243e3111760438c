"""`flashvid bench all`: every benchmark but `quality` and `planning` into one folder, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from jobs.bench.cache import bench_cache
from jobs.bench.compress import bench_compress
from jobs.bench.environment import describe_environment
from jobs.bench.reports import write_report
from jobs.bench.video_decoding import PATIENCE, QUICK, bench_decode
from jobs.lab import answers
from jobs.lab.answers_command import bench_answers
from jobs.lab.answers_model import write_clip
from jobs.lab.pipeline import bench_pipeline

# Of the video that is decoded: half a minute, and a few seconds.
_DECODE_FRAMES, _QUICK_DECODE_FRAMES = 360, 48
# Of the run on Ray, which goes through them once.
_CLIPS = 32

# Writes into a folder, quickly or not; what is beyond its limit, in words.
Benchmark = Callable[[Path, bool], Iterable[str]]


def _answers(folder: Path, quick: bool) -> Iterable[str]:
    bench_answers(folder, answers.QUICK if quick else answers.BRIEF)
    return ()


def _compress(folder: Path, quick: bool) -> Iterable[str]:
    return bench_compress(folder, quick=quick)


def _decode(folder: Path, quick: bool) -> Iterable[str]:
    video = folder / "clip.mp4"
    write_clip(video, _QUICK_DECODE_FRAMES if quick else _DECODE_FRAMES)
    bench_decode(video, folder, QUICK if quick else PATIENCE)
    return ()


def _pipeline(folder: Path, quick: bool) -> Iterable[str]:
    bench_pipeline(folder, quick=quick, clips=None if quick else _CLIPS, turns=1)
    return ()


def _cache(folder: Path, quick: bool) -> Iterable[str]:
    bench_cache(folder, quick=quick)
    return ()


BENCHMARKS: Mapping[str, Benchmark] = {
    "answers": _answers,
    "compress": _compress,
    "decode": _decode,
    "pipeline": _pipeline,
    "cache": _cache,
}


def bench_all(output: Path, *, quick: bool = False, benchmarks: Mapping[str, Benchmark] = BENCHMARKS) -> list[str]:
    """Run them all, each into a folder of its name, and write how long each took to `all.md`.

    Planning of fewer videos than `bench planning` has is part of `bench pipeline`.

    Args:
        output: A folder, made if need be.
        quick: Only to see that they work; figures mean little.
        benchmarks: By name.

    Returns:
        What is beyond its limit, in words.
    """
    beyond: list[str] = []
    lines = [f"# All benchmarks\n\n{describe_environment()}\n\n| benchmark | minutes |\n|---|---|\n"]
    started = time.monotonic()
    for name, run in benchmarks.items():
        begun = time.monotonic()
        beyond += run(output / name, quick)
        lines.append(f"| [{name}]({name}/{name}.md) | {(time.monotonic() - begun) / 60:.1f} |\n")
        write_report(output, "all", "".join(lines))
    lines.append(f"| all | {(time.monotonic() - started) / 60:.1f} |\n")
    write_report(output, "all", "".join(lines))
    print("".join(lines))
    return beyond
