"""`flashvid init`: a commented job file for a folder or table of videos."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from jobs.cli.options import write_file, write_line

_TEMPLATE = "examples/job.yaml"
_QUESTION = "What happens in this video?"


def init(
    videos: Annotated[str, typer.Argument(help="a folder, a glob, or a Parquet, CSV or JSONL table")],
    question: Annotated[
        list[str] | None, typer.Option(help="asked of every video; {column} stands for a column; may be repeated")
    ] = None,
    model: Annotated[str, typer.Option(help="embedded model, local directory, or hub id")] = "tiny",
    output: Annotated[str, typer.Option(help="folder or URL that will receive the answers")] = "output",
    to: Annotated[Path, typer.Option(help="the job file to write; an existing one is left alone")] = Path("job.yaml"),
) -> None:
    """Write a commented job file for videos that are there.

    Example: flashvid init videos/ --question "What happens?" --model Qwen/Qwen2.5-VL-7B-Instruct
    """
    count = write_job(to, videos, question or [_QUESTION], model=model, output=output)
    write_line(Console(), f"{to}: {count} videos; next: {shlex.join(['flashvid', 'plan', str(to)])}")


def write_job(to: Path, videos: str, questions: Sequence[str], *, model: str, output: str) -> int:
    """Write a job file; the number of its videos.

    Args:
        to: Where; must not exist.
        videos: As `JobConfig.videos`, a relative path meant from here.
        questions: Texts.
        model: As `ModelConfig.name`.
        output: As `JobConfig.output`, a relative path meant from the job file's folder.

    Raises:
        ConfigurationError: there is such a file, or it can't be written.
        InputTableError: no videos there, or a table that can't be read.
    """
    from importlib.resources import files
    from string import Template

    from pipeline.inputs.videos_table import read_videos

    rows = read_videos(videos)
    columns = sorted({name for row in rows for name in row.columns})
    found = f"{len(rows)} videos"
    if columns:
        found += f"; a question may use {', '.join(f'{{{name}}}' for name in columns)}"
    text = Template(files("jobs").joinpath(_TEMPLATE).read_text(encoding="utf-8")).substitute(
        videos=_quoted(_seen_from(to, videos)),
        # One line of a comment, whatever a column is called.
        found=" ".join(found.split()),
        questions="\n".join(f"  - {_quoted(question)}" for question in questions),
        output=_quoted(output),
        model=_quoted(_seen_from(to, model) if Path(model).is_dir() else model),
    )
    write_file(to, text.encode())
    return len(rows)


def _quoted(text: str) -> str:
    """A text as YAML has it: JSON's strings are YAML's, too."""
    return json.dumps(text, ensure_ascii=False)


def _seen_from(job_file: Path, path: str) -> str:
    """A local path as it is meant in the job file: from its folder, or absolute where it is elsewhere."""
    if "://" in path:
        return path
    absolute, folder = Path(path).expanduser().absolute(), job_file.absolute().parent
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)
