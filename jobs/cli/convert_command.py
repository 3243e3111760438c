"""`flashvid convert`: a benchmark's published annotations as our two tables, and jobs as the paper ran them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.printing import print_text, write_file

if TYPE_CHECKING:
    from jobs.datasets.converter import Benchmark, Row, Tables

_RETENTION = 0.25


def convert(
    name: Annotated[str, typer.Argument(help="video_mme, egoschema, long_video_bench, mvbench or mlvu")],
    annotations: Annotated[Path, typer.Argument(help="its annotation file or folder, as published")],
    to: Annotated[Path, typer.Argument(help="folder for videos.parquet, questions.parquet and job files")],
    videos: Annotated[Path, typer.Option(help="folder of its video files")],
    subtitles: Annotated[Path | None, typer.Option(help="folder of its subtitles (video_mme)")] = None,
    subtitle_frames: Annotated[int, typer.Option(min=1, help="keep subtitles of this many frames of a video")] = 32,
    labelled_only: Annotated[bool, typer.Option("--labelled-only", help="only questions with a public answer")] = False,
) -> None:
    """Convert a benchmark, and write a job file for each model of the paper's tables.

    Prompts and answer formats are lmms-eval's. Then: flashvid run, and flashvid evaluate --benchmark NAME.

    Example: flashvid convert mvbench MVBench/json mvbench --videos MVBench/video
    """
    from dataclasses import replace

    from jobs.datasets import benchmark_named
    from jobs.datasets.converter import Source

    benchmark = benchmark_named(name)
    if subtitles is not None and benchmark.name != "video_mme":
        raise typer.BadParameter(f"{benchmark.name} has no subtitles, only video_mme has", param_hint="--subtitles")
    source = Source(annotations.absolute(), videos.absolute(), subtitles and subtitles.absolute(), subtitle_frames)
    tables = benchmark.convert(source)
    if labelled_only:
        labelled = tuple(row for row in tables.questions if row["answer"] is not None)
        used = {row["video_id"] for row in labelled}
        seen = tuple(row for row in tables.videos if row["video_id"] in used)
        tables = replace(tables, videos=seen, questions=labelled)
    jobs = write(benchmark, tables, to)
    rest = f"; {tables.left_out} without options left out" if tables.left_out else ""
    print_text(f"{benchmark.title}: {len(tables.videos)} videos, {len(tables.questions)} questions in {to}{rest}")
    print_text(f"next: {shlex.join(['flashvid', 'plan', str(jobs[0])])}")


def write(benchmark: Benchmark, tables: Tables, to: Path) -> list[Path]:
    """Write the tables and the job files; return the paths of the job files.

    Raises:
        ConfigurationError: one of the files exists already, or can't be written.
        InputTableError: the annotations hold no question.
    """
    import pyarrow as pa

    from flashvid.errors import ConfigurationError
    from jobs.datasets.published import PAPER_MODELS
    from pipeline.errors import InputTableError
    from pipeline.store.parquet import to_bytes

    if not tables.questions:
        raise InputTableError("the annotations hold no question that can be converted", benchmark.title)
    text = pa.string()
    columns = ("question_id", "question", "answer", "video_id", "category")
    questions = pa.schema([*((column, text) for column in columns), ("options", pa.list_(text))])
    videos = pa.schema([(column, text) for column in tables.videos[0]])
    files = {
        "videos.parquet": to_bytes([_as_text(row) for row in tables.videos], videos),
        "questions.parquet": to_bytes([_as_text(row) for row in tables.questions], questions),
    }
    jobs = {f"job-{preset}.yaml": job_text(benchmark, preset).encode() for preset in PAPER_MODELS}
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"can't be written: {error.strerror}", str(to)) from None
    for name, content in {**files, **jobs}.items():
        write_file(to / name, content)
    return [to / name for name in jobs]


def _as_text(row: Row) -> Row:
    """Return numbers as text: the formats of one benchmark differ in types, and ids are text."""
    return {name: value if value is None or isinstance(value, list) else str(value) for name, value in row.items()}


def job_text(benchmark: Benchmark, preset: str) -> str:
    """Return the job file for one model of the paper's tables."""
    from importlib.resources import files
    from string import Template

    from jobs.datasets.published import PAPER_MODELS

    model = PAPER_MODELS[preset]
    pixels = f"  min_pixels: {model.pixels[0]}\n  max_pixels: {model.pixels[1]}\n" if model.pixels else ""
    template = Template(files("jobs").joinpath("examples/benchmark.template").read_text(encoding="utf-8"))
    return template.substitute(
        vars(benchmark),
        preset=preset,
        model=model.title,
        hub_id=model.hub_id,
        pixels=pixels,
        num_frames=model.num_frames,
        retention=_RETENTION,
    )
