"""`flashvid bench all`: every benchmark but `quality` into one folder, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from jobs.bench.answers_command import bench_answers
from jobs.bench.answers_model import write_clip
from jobs.bench.cache import bench_cache
from jobs.bench.compress import bench_compress
from jobs.bench.decode import PATIENCE, QUICK, bench_decode
from jobs.bench.environment import describe_environment
from jobs.bench.pipeline import bench_pipeline
from jobs.bench.results import write_report

# Of the video that is decoded: half a minute, and a few seconds.
_DECODE_FRAMES, _QUICK_DECODE_FRAMES = 360, 48


def bench_all(output: Path, *, quick: bool = False) -> list[str]:
    """Run them all, each into a folder of its name, and write how long each took to `all.md`.

    Planning is measured by `bench pipeline`; a million videos are `bench planning`.

    Args:
        output: A folder, made if need be.
        quick: Only to see that they work; figures mean little.

    Returns:
        What of the compression is beyond its limit, in words.
    """
    beyond: list[str] = []
    output.mkdir(parents=True, exist_ok=True)
    benchmarks: dict[str, Callable[[Path], object]] = {
        "answers": lambda folder: bench_answers(folder, quick=quick),
        "compress": lambda folder: beyond.extend(bench_compress(folder, quick=quick)),
        "decode": lambda folder: _decode(folder, quick=quick),
        "pipeline": lambda folder: bench_pipeline(folder, quick=quick),
        "cache": lambda folder: bench_cache(folder, quick=quick),
    }
    lines = [f"# All benchmarks\n\n{describe_environment()}\n\n| benchmark | minutes |\n|---|---|\n"]
    started = time.monotonic()
    for name, run in benchmarks.items():
        begun = time.monotonic()
        run(output / name)
        lines.append(f"| [{name}]({name}/{name}.md) | {(time.monotonic() - begun) / 60:.1f} |\n")
        (output / "all.md").write_text("".join(lines), encoding="utf-8")
    lines.append(f"| all | {(time.monotonic() - started) / 60:.1f} |\n")
    write_report(output, "all", "".join(lines))
    print("".join(lines))
    return beyond


def _decode(folder: Path, *, quick: bool) -> None:
    video = folder / "clip.mp4"
    write_clip(video, _QUICK_DECODE_FRAMES if quick else _DECODE_FRAMES)
    bench_decode(video, folder, QUICK if quick else PATIENCE)
