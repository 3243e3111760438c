"""The commands of `flashvid bench`: one entry point for everything that is measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

# Exit code: something is beyond its limit.
_BEYOND = 1

bench = typer.Typer(no_args_is_help=True, help="Measure what the project claims, beside its rivals.")


@bench.command()
def quality(
    output: Annotated[Path, typer.Option(help="folder for quality.csv, frames.csv, quality.md and quality.png")],
    model: Annotated[str, typer.Option(help="embedded name or model directory")] = "tiny",
    quick: Annotated[bool, typer.Option("--quick", help="a quarter of the clips, no variants: 5 minutes")] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="other clips, never reported: for choosing settings by their result")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="processes of one thread; default: one per core")] = None,
) -> None:
    """Measure accuracy against retention on generated clips, for FlashVID, its variants and its rivals.

    Example: flashvid bench quality --output quality --quick
    """
    from jobs.lab.quality_command import bench_quality

    bench_quality(
        model, output, quick=quick, clip_set="tune" if tune else "report", workers=workers or os.cpu_count() or 1
    )


@bench.command()
def answers(
    output: Annotated[Path | None, typer.Option(help="folder for answers.csv, answers.md and answers.png")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="a short clip, few questions: to see that it works")] = False,
) -> None:
    """Measure what answers cost by the number of questions per video, beside the usual loop and a prefix cache.

    Example: flashvid bench answers --output answers
    """
    from jobs.lab.answers import QUICK
    from jobs.lab.answers_command import bench_answers

    bench_answers(output, QUICK if quick else None)


@bench.command()
def compress(
    output: Annotated[Path | None, typer.Option(help="folder for compress.csv, compress.md and compress.png")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="small clips, only to see that it works")] = False,
) -> None:
    """Measure the time, operations and memory of compression against the matrix products that it needs.

    Exit code 1 if anything is beyond its limit.

    Example: flashvid bench compress --output compress
    """
    from jobs.bench.compress import bench_compress

    if bench_compress(output, quick=quick):
        raise typer.Exit(_BEYOND)


@bench.command()
def decode(
    video: Annotated[Path, typer.Argument(help="a local video file", exists=True, dir_okay=False)],
    output: Annotated[Path | None, typer.Option(help="folder for decode.csv, decode.md and decode.png")] = None,
) -> None:
    """Measure sampled frames per second of both decoders, beside ffmpeg decoding the same file to nothing.

    Example: flashvid bench decode video.mp4 --output decode
    """
    from jobs.bench.video_decoding import bench_decode

    bench_decode(video, output)


@bench.command("all")
def everything(
    output: Annotated[Path, typer.Option(help="folder that gets a folder of each")],
    quick: Annotated[bool, typer.Option("--quick", help="only to see that it works: 4 minutes")] = False,
) -> None:
    """Run every benchmark but `quality` and `planning`, which take many minutes by themselves.

    Exit code 1 if compression is beyond its limits.

    Example: flashvid bench all --output bench --quick
    """
    from jobs.bench.everything import bench_all

    if bench_all(output, quick=quick):
        raise typer.Exit(_BEYOND)


@bench.command()
def cache(
    output: Annotated[Path | None, typer.Option(help="folder for cache.csv, cache.md and cache.png")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="few turns")] = False,
) -> None:
    """Measure what a cached token takes, and how fast the store writes and reads it, beside plain files.

    Example: flashvid bench cache --output cache
    """
    from jobs.bench.cache import bench_cache

    bench_cache(output, quick=quick)


@bench.command()
def pipeline(
    output: Annotated[Path | None, typer.Option(help="folder for pipeline.csv, pipeline.md and pipeline.png")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="few clips, only to see that it works")] = False,
    clips: Annotated[
        int | None, typer.Option(help="of the run that is held against a loop; default: 48", min=1)
    ] = None,
    turns: Annotated[
        int | None, typer.Option(help="of run and loop; default: 2; the calmest one is told", min=1)
    ] = None,
) -> None:
    """Measure what running on Ray costs: CPU time against a plain loop, idle GPUs, the driver.

    Example: flashvid bench pipeline --output pipeline --clips 512 --turns 1
    """
    from jobs.lab.pipeline import bench_pipeline

    bench_pipeline(output, quick=quick, clips=clips, turns=turns)


@bench.command()
def planning(
    output: Annotated[Path | None, typer.Option(help="folder for planning.csv and planning.md")] = None,
    videos: Annotated[int, typer.Option(help="rows of the videos table", min=1)] = 1_000_000,
    questions: Annotated[int, typer.Option(help="asked of every video; half of them are answered", min=2)] = 10,
) -> None:
    """Measure how long planning a large job takes, half of it answered, and the driver's memory.

    Example: flashvid bench planning --videos 100000
    """
    from jobs.lab.planning import bench_planning

    bench_planning(output, num_videos=videos, num_questions=questions)
