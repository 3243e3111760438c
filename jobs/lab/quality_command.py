"""`flashvid bench quality`: measure, write quality.csv, frames.csv, quality.md and quality.png, and show the tables."""

import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.text import Text

from jobs.bench.reports import describe_environment
from jobs.lab.arms import METHOD_ARMS
from jobs.lab.cached_tokens import CachedTokens, cached_tokens_markdown, measure_cached_tokens
from jobs.lab.measurement import FULL, Measurement
from jobs.lab.more_frames import FEW_FRAMES, FIRST_LONG_CLIP, measure_views
from jobs.lab.quality import FIRST_CLIPS, MAIN_RETENTION, QUICK, ClipSet, Scope, default_arms, measure
from jobs.lab.quality_table import QualityRow, family_markdown, markdown, plot_quality, quality_rows, write_csv

_LONG_CLIPS, _QUICK_LONG_CLIPS = 480, 48


def bench_quality(
    model: str, output: Path, *, quick: bool, clip_set: ClipSet, workers: int, console: Console | None = None
) -> None:
    """Measure accuracy against retention, and more frames at an equal budget.

    Args:
        model: Embedded name, directory or hub id.
        output: Folder for the files, created if it is missing.
        quick: A quarter of the clips and a tenth of the long ones, no variants.
        clip_set: "report", or "tune" for choosing settings on clips that are never reported.
        workers: Processes of one thread.
        console: For tables and progress.
    """
    console = console or Console()
    output.mkdir(parents=True, exist_ok=True)
    scope = replace(QUICK if quick else Scope(), clip_set=clip_set)
    num_long = _QUICK_LONG_CLIPS if quick else _LONG_CLIPS
    began = time.monotonic()
    measured = _all(console, "clips", scope.main_clips, measure(model, scope, default_arms(scope), workers=workers))
    rows = quality_rows(measured, FULL, seed=FIRST_CLIPS[clip_set])
    measured = _all(console, "long clips", num_long, measure_views(model, num_long, workers=workers))
    long_rows = quality_rows(measured, FEW_FRAMES, seed=FIRST_LONG_CLIP)
    cached = measure_cached_tokens(model, scope)
    write_csv(output / "quality.csv", rows)
    write_csv(output / "frames.csv", long_rows)
    plot_quality(output / "quality.png", rows, [arm.name for arm in METHOD_ARMS])
    text = _report(model, rows, long_rows, cached, minutes=(time.monotonic() - began) / 60)
    (output / "quality.md").write_text(text, encoding="utf-8")
    console.print(Text(text), soft_wrap=True)
    console.print(Text(f"written to {output}"), soft_wrap=True)


def _all(console: Console, what: str, total: int, measured: Iterable[list[Measurement]]) -> list[Measurement]:
    """Return all measurements, and show a progress bar."""
    return [one for several in track(measured, what, total, console=console) for one in several]


def _report(
    model: str, rows: list[QualityRow], long_rows: list[QualityRow], cached: list[CachedTokens], *, minutes: float
) -> str:
    command = "flashvid " + " ".join(sys.argv[1:])
    return f"""# Accuracy against retention

`{command}`, model {model}, {minutes:.1f} minutes; {describe_environment()}.
Relative to full tokens on the same questions, with a paired bootstrap over clips.

{markdown(rows)}
## By family, retention {MAIN_RETENTION}

{family_markdown(rows, MAIN_RETENTION)}
## Ten times the frames for the same tokens

What flashes briefly in clips of 40 steps; relative to {FEW_FRAMES}.

{markdown(long_rows)}
## Cached tokens

Of the model's float32 tokens at retention {MAIN_RETENTION}; per token.

{cached_tokens_markdown(cached)}"""
