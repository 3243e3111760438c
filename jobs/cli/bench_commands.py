"""The commands of `flashvid bench`: measure this machine, and, in a checkout, what the project claims."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from jobs.bench.reports import Benchmark

# Exit code: something is over its limit.
_OVER = 1

Quick = Annotated[bool, typer.Option("--quick", help="small and fast, only to see that it works")]

bench = typer.Typer(no_args_is_help=True, help="Measure this machine; in a checkout, also what the project claims.")


def _lab(name: str) -> Any:  # noqa: ANN401 - a function of any kind
    """Return `jobs.lab.NAME.NAME`, which a checkout has; None in an installed package."""
    return getattr(import_module(f"jobs.lab.{name}"), name) if find_spec("jobs.lab") else None


def _need_lab(command: str) -> None:
    """Raise ConfigurationError where jobs/lab is not installed."""
    if find_spec("jobs.lab") is None:
        from flashvid.errors import ConfigurationError

        raise ConfigurationError(
            f"flashvid bench {command} is not in the installed package: run it in a checkout of the flashvid repository"
        )


@bench.command()
def quality(
    output: Annotated[Path, typer.Option(help="folder for quality.csv, frames.csv, quality.md and quality.png")],
    model: Annotated[str, typer.Option(help="embedded name or model directory")] = "tiny",
    quick: Annotated[bool, typer.Option("--quick", help="a quarter of the clips, no variants: 5 minutes")] = False,
    tune: Annotated[bool, typer.Option("--tune", help="use the clips for choosing settings, not for reports")] = False,
    workers: Annotated[int | None, typer.Option(help="processes of one thread; default: one per core")] = None,
) -> None:
    """Measure accuracy against retention on generated clips, for FlashVID, its variants and its rivals.

    Needs a checkout of the repository.

    Example: flashvid bench quality --output quality --quick
    """
    _need_lab("quality")
    from jobs.lab.quality_command import bench_quality

    bench_quality(
        model, output, quick=quick, clip_set="tune" if tune else "report", workers=workers or os.cpu_count() or 1
    )


@bench.command()
def answers(
    output: Annotated[Path | None, typer.Option(help="folder for answers.csv, answers.md and answers.png")] = None,
    quick: Quick = False,
) -> None:
    """Measure what answers cost by the number of questions per video, for us, the usual loop and a prefix cache.

    Needs a checkout of the repository.

    Example: flashvid bench answers --output answers
    """
    _need_lab("answers")
    from jobs.lab.answers import QUICK
    from jobs.lab.answers_command import bench_answers

    bench_answers(output, QUICK if quick else None)


@bench.command()
def planning(
    output: Annotated[Path | None, typer.Option(help="folder for planning.csv and planning.md")] = None,
    videos: Annotated[int, typer.Option(help="rows of the videos table", min=1)] = 1_000_000,
    questions: Annotated[int, typer.Option(help="questions per video; half of them are answered", min=2)] = 10,
) -> None:
    """Measure how long planning a large job takes, half of it answered, and the driver's memory.

    Needs a checkout of the repository.

    Example: flashvid bench planning --videos 100000
    """
    _need_lab("planning")
    from jobs.lab.planning import bench_planning

    bench_planning(output, num_videos=videos, num_questions=questions)


@bench.command()
def compress(
    output: Annotated[Path | None, typer.Option(help="folder for compress.csv and compress.md")] = None,
    quick: Quick = False,
) -> None:
    """Measure the time, operations and memory of compression against the matrix products that it needs.

    In a checkout, also measure the other methods and the naive implementation. Exit code 1 if
    anything is over its limit.

    Example: flashvid bench compress --output compress
    """
    if _compress(output, quick):
        raise typer.Exit(_OVER)


@bench.command()
def decode(
    video: Annotated[Path, typer.Argument(help="a local video file", exists=True, dir_okay=False)],
    output: Annotated[Path | None, typer.Option(help="folder for decode.csv and decode.md")] = None,
) -> None:
    """Measure sampled frames per second of both decoders, and of ffmpeg decoding the same file.

    Example: flashvid bench decode video.mp4 --output decode
    """
    from jobs.bench.video_decoding import bench_decode

    bench_decode(video, output)


@bench.command()
def cache(
    output: Annotated[Path | None, typer.Option(help="folder for cache.csv and cache.md")] = None,
    quick: Quick = False,
) -> None:
    """Measure the bytes of a cached token, and how fast the store writes and reads it.

    In a checkout, also measure plain files.

    Example: flashvid bench cache --output cache
    """
    _cache(output, quick)


@bench.command()
def pipeline(
    output: Annotated[Path | None, typer.Option(help="folder for pipeline.csv and pipeline.md")] = None,
    quick: Quick = False,
    clips: Annotated[int | None, typer.Option(help="clips of the run; default: 48", min=1)] = None,
    turns: Annotated[int | None, typer.Option(help="turns of run and plain loop; default: 2", min=1)] = None,
) -> None:
    """Measure a run on this machine, stage by stage.

    In a checkout, also measure what running on Ray costs: CPU time against a plain loop, idle GPUs, the driver.

    Example: flashvid bench pipeline --output pipeline --clips 512 --turns 1
    """
    _pipeline(output, quick=quick, clips=clips, turns=turns)


@bench.command("all")
def everything(
    output: Annotated[Path, typer.Option(help="folder; each benchmark gets a folder in it")],
    quick: Annotated[bool, typer.Option("--quick", help="only to see that it works: 4 minutes")] = False,
) -> None:
    """Run every benchmark that is here, but `quality` and `planning`, which take many minutes.

    Exit code 1 if compression is over its limits.

    Example: flashvid bench all --output bench --quick
    """
    from jobs.bench.reports import bench_all

    needs = "quality, answers and planning (they need a checkout of the repository), decode (it needs a video of yours)"
    measured = benchmarks(quick)
    if bench_all(output, measured, "" if "decode" in measured else f"Left out: {needs}.")["compress"]:
        raise typer.Exit(_OVER)


def benchmarks(quick: bool) -> dict[str, Benchmark]:
    """Return what `bench all` runs here, by name."""
    clips = None if quick else 32
    found = {name: partial(run, quick=quick) for name, run in (("compress", _compress), ("cache", _cache))}
    found["pipeline"] = partial(_pipeline, quick=quick, clips=clips, turns=1)
    more = _lab("all_benchmarks")
    return {**found, **(more(quick) if more else {})}


def _compress(folder: Path | None, quick: bool) -> list[str]:
    from jobs.bench.compress import bench_compress

    return bench_compress(folder, quick=quick, study=_lab("compression_study"))


def _pipeline(folder: Path | None, quick: bool, clips: int | None, turns: int | None) -> object:
    from jobs.bench.local_run import bench_run

    study = _lab("distribution_study")
    study = study and partial(study, quick=quick, clips=clips, turns=turns)
    return bench_run(folder, quick=quick, clips=clips, study=study)


def _cache(folder: Path | None, quick: bool) -> object:
    from jobs.bench.cache import bench_cache

    return bench_cache(folder, quick=quick, rivals=_lab("plain_file"))
