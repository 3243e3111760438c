"""The commands of `flashvid bench` that a checkout adds: the measurements behind the project's claims."""

import os
from pathlib import Path
from typing import Annotated

import typer


def quality(
    output: Annotated[Path, typer.Option(help="folder for quality.csv, frames.csv, quality.md and quality.png")],
    model: Annotated[str, typer.Option(help="embedded name or model directory")] = "tiny",
    quick: Annotated[bool, typer.Option("--quick", help="a quarter of the clips, no variants: 5 minutes")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="use the clips for choosing settings, not for reports")] = False,
    workers: Annotated[int | None, typer.Option(help="processes of one thread; default: one per core")] = None,
) -> None:
    """Measure accuracy against retention on generated clips, for FlashVID, its variants and its rivals.

    Example: flashvid bench quality --output quality --quick
    """
    from jobs.lab.quality_command import bench_quality

    bench_quality(
        model, output, quick=quick, clip_set="tune" if tune else "report", workers=workers or os.cpu_count() or 1
    )


def answers(
    output: Annotated[Path | None, typer.Option(help="folder for answers.csv, answers.md and answers.png")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="small and fast, only to see that it works")] = False,
) -> None:
    """Measure what answers cost by the number of questions per video, for us, the usual loop and a prefix cache.

    Example: flashvid bench answers --output answers
    """
    from jobs.lab.answers import QUICK
    from jobs.lab.answers_command import bench_answers

    bench_answers(output, QUICK if quick else None)


def planning(
    output: Annotated[Path | None, typer.Option(help="folder for planning.csv and planning.md")] = None,
    videos: Annotated[int, typer.Option(help="rows of the videos table", min=1)] = 1_000_000,
    questions: Annotated[int, typer.Option(help="questions per video; half of them are answered", min=2)] = 10,
) -> None:
    """Measure how long planning a large job takes, half of it answered, and the driver's memory.

    Example: flashvid bench planning --videos 100000
    """
    from jobs.lab.planning import bench_planning

    bench_planning(output, num_videos=videos, num_questions=questions)
