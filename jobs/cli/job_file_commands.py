"""Commands for job files: init, validate, schema, convert."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson, JobFile, Overrides, assignments
from jobs.cli.printing import REFUSED, print_json, print_text, write_file

if TYPE_CHECKING:
    from jobs.datasets.converter import Benchmark, Row, Tables


def init(
    videos: Annotated[str, typer.Argument(help="a folder, a glob, or a Parquet, CSV or JSONL table")],
    question: Annotated[list[str] | None, typer.Option(help="{column} inserts a column; may be repeated")] = None,
    model: Annotated[str, typer.Option(help="embedded model, local directory, or hub id")] = "tiny",
    output: Annotated[str, typer.Option(help="folder or URL for the answers")] = "output",
    to: Annotated[Path, typer.Option(help="the job file to write; must not exist yet")] = Path("job.yaml"),
) -> None:
    """Write a commented job file for existing videos.

    Example: flashvid init videos/ --question "What happens?" --model Qwen/Qwen2.5-VL-7B-Instruct
    """
    count = write_job(to, videos, question or ["What happens in this video?"], model=model, output=output)
    print_text(f"{to}: {count} videos; next: {shlex.join(['flashvid', 'plan', str(to)])}")


def validate(job: JobFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a job file and its tables of videos and questions; write nothing and look for no model.

    Exit code 2 if something is wrong.

    Example: flashvid validate job.yaml --json
    """
    found = check(job, assignments(overrides, "--set"))
    if as_json:
        print_json(found)
    elif found["valid"]:
        for note in found["notes"]:
            print_text(note)
        print_text(f"{job}: valid, {found['videos']} videos, {found['answers']} answers")
    else:
        lines = [": ".join(filter(None, (str(job), fault["where"], fault["message"]))) for fault in found["faults"]]
        print_text("\n".join(lines), "red", to_stderr=True)
    if not found["valid"]:
        raise typer.Exit(REFUSED)


def schema() -> None:
    """Print the JSON Schema of a job file, for completion and checks in an editor.

    In VS Code with the YAML extension, or any editor with yaml-language-server, the job file then starts with the line
    "# yaml-language-server: $schema=job.schema.json".

    Example: flashvid schema > job.schema.json
    """
    print_json(job_schema())


def write_job(to: Path, videos: str, questions: Sequence[str], *, model: str, output: str) -> int:
    """Write a job file; return the number of its videos.

    Args:
        to: Must not exist.
        videos: As `JobConfig.videos`; a relative path starts at the current folder.
        questions: Texts.
        model: As `ModelConfig.name`.
        output: As `JobConfig.output`; a relative path starts at the job file's folder.

    Raises:
        ConfigurationError: the file exists, or can't be written.
        InputTableError: there are no videos, or the table can't be read.
    """
    from importlib.resources import files
    from string import Template

    from pipeline.inputs.videos_table import read_videos

    rows = read_videos(videos)
    columns = sorted({name for row in rows for name in row.columns})
    found = f"{len(rows)} videos"
    if columns:
        found += f"; a question may use {', '.join(f'{{{name}}}' for name in columns)}"
    text = Template(files("jobs").joinpath("examples/job.yaml").read_text(encoding="utf-8")).substitute(
        videos=_quoted(_from_folder_of(to, videos)),
        # One line of a comment, even if a column name has line breaks.
        found=" ".join(found.split()),
        questions="\n".join(f"  - {_quoted(question)}" for question in questions),
        output=_quoted(output),
        model=_quoted(_from_folder_of(to, model) if Path(model).is_dir() else model),
    )
    write_file(to, text.encode())
    return len(rows)


def check(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `validate --json` prints: `valid`, and `faults` or the number of `videos` and `answers`."""
    from flashvid.errors import FatalError
    from jobs.job_file import check_job
    from pipeline.config import JobConfig
    from pipeline.errors import OutageError
    from pipeline.inputs.job_inputs import read_tables

    try:
        job = check_job(path, overrides)
        if not isinstance(job, JobConfig):
            return {"valid": False, "faults": [asdict(fault) for fault in job]}
        videos, questions = read_tables(job)
    except OutageError:
        raise
    except FatalError as error:
        # An error of a table, or of the whole file.
        where = "" if error.row == str(path) else error.row or ""
        return {"valid": False, "faults": [{"where": where, "line": None, "key": None, "message": error.message}]}
    answers = sum(len(questions.for_video(video.video_id)) for video in videos)
    notes = [*videos.notes, *questions.notes]
    return {"valid": True, "faults": [], "videos": len(videos), "answers": answers, "notes": notes}


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a job file, short forms included."""
    from pipeline.config import JobConfig

    described = JobConfig.model_json_schema()
    inline = next(kind for kind in described["properties"]["questions"]["anyOf"] if kind["type"] == "array")
    # Validators of the job file also accept a question that is a text alone, and a schema written in the job itself.
    inline["items"] = {"anyOf": [{"type": "string"}, inline["items"]]}
    described["$defs"]["GenerationConfig"]["properties"]["json_schema"]["anyOf"].insert(0, {"type": "object"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}


def _quoted(text: str) -> str:
    """Return a text in YAML: JSON strings are also YAML."""
    return json.dumps(text, ensure_ascii=False)


def _from_folder_of(job_file: Path, path: str) -> str:
    """Return a local path as the job file has it: relative inside its folder, absolute elsewhere."""
    if "://" in path:
        return path
    absolute, folder = Path(path).expanduser().absolute(), job_file.absolute().parent
    return str(absolute.relative_to(folder)) if absolute.is_relative_to(folder) else str(absolute)


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
    tables = benchmark.module.convert(source)
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
    of_model = {"model": model.title, "hub_id": model.hub_id, "num_frames": model.num_frames, "pixels": pixels}
    return template.substitute(vars(benchmark), counted=benchmark.module.COUNTED, preset=preset, **of_model)
