"""The commands of `flashvid bench`: measure this machine, and, in a checkout, what the project claims."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.printing import PROBLEM

if TYPE_CHECKING:
    from jobs.bench.reports import Benchmark

# Measurements behind the project's claims, which need a checkout.
_LAB_COMMANDS = ("quality", "answers", "planning")

Quick = Annotated[bool, typer.Option("--quick", help="small and fast, only to see that it works")]

bench = typer.Typer(no_args_is_help=True, help="Measure this machine; in a checkout, also what the project claims.")


def _lab(name: str) -> Any:  # noqa: ANN401 - a module of any content
    """Return the module `jobs.lab.NAME`, which a checkout has; None in an installed package."""
    return import_module(f"jobs.lab.{name}") if find_spec("jobs.lab") else None


def _refused(ctx: typer.Context) -> None:
    """Not in the installed package: needs a checkout of the flashvid repository."""
    from flashvid.errors import ConfigurationError

    where = "run it in a checkout of the flashvid repository"
    raise ConfigurationError(f"{ctx.command_path} is not in the installed package: {where}")


def add_lab_commands(app: typer.Typer, lab: ModuleType | None) -> None:
    """Add the commands of `jobs.lab.commands`, or, in an installed package, commands that refuse."""
    for name in _LAB_COMMANDS:
        settings = {} if lab else {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(name, context_settings=settings)(getattr(lab, name, _refused))


add_lab_commands(bench, _lab("commands"))


@bench.command()
def compress(
    output: Annotated[Path | None, typer.Option(help="folder for compress.csv and compress.md")] = None,
    quick: Quick = False,
) -> None:
    """Measure the time of compression against the matrix products that it needs.

    In a checkout, also measure operations, memory, the other methods and the naive implementation; exit code 1 if
    anything is over its limit.

    Example: flashvid bench compress --output compress
    """
    if _compress(output, quick):
        raise typer.Exit(PROBLEM)


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
    output: Annotated[Path | None, typer.Option(help="folder for cache.csv and cache.md")] = None, quick: Quick = False
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
        raise typer.Exit(PROBLEM)


def benchmarks(quick: bool) -> dict[str, Benchmark]:
    """Return what `bench all` runs here, by name."""
    here: dict[str, Benchmark] = {
        "compress": partial(_compress, quick=quick),
        "cache": partial(_cache, quick=quick),
        "pipeline": partial(_pipeline, quick=quick, clips=None if quick else 32, turns=1),
    }
    lab = _lab("all_benchmarks")
    return {**here, **lab.all_benchmarks(quick)} if lab else here


def _compress(folder: Path | None, quick: bool) -> list[str]:
    from jobs.bench.compress import bench_compress

    lab = _lab("compression_study")
    return bench_compress(folder, quick=quick, study=lab and lab.compression_study)


def _pipeline(folder: Path | None, quick: bool, clips: int | None, turns: int | None) -> object:
    from jobs.bench.local_run import bench_run

    lab = _lab("distribution_study")
    study = lab and partial(lab.distribution_study, quick=quick, clips=clips, turns=turns)
    return bench_run(folder, quick=quick, clips=clips, study=study)


def _cache(folder: Path | None, quick: bool) -> object:
    from jobs.bench.cache import bench_cache

    lab = _lab("plain_file")
    return bench_cache(folder, quick=quick, rivals=lab and lab.plain_file)
