"""`flashvid validate` and `flashvid schema`: is a job file right, and what may stand in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from jobs.cli.options import AsJson, Overrides, assignments, write_json, write_line

if TYPE_CHECKING:
    from pipeline.config import JobConfig

_REFUSED = 2
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def validate(
    job: Annotated[Path, typer.Argument(help="the job file (YAML)")],
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check a job file and its tables of videos and questions; nothing is written and no model looked for.

    Exit code 2 if something is wrong.

    Example: flashvid validate job.yaml --json
    """
    found = check(job, assignments(overrides, "--set"))
    console = Console(stderr=not found["valid"] and not as_json)
    if as_json:
        write_json(console, found)
    elif found["valid"]:
        right = f"{job}: right, {found['videos']} videos, {found['answers']} answers to give"
        write_line(console, right)
    else:
        lines = [": ".join(filter(None, (str(job), fault["where"], fault["message"]))) for fault in found["faults"]]
        write_line(console, "\n".join(lines), "red")
    if not found["valid"]:
        raise typer.Exit(_REFUSED)


def schema() -> None:
    """Print the JSON Schema of a job file, with which editors complete and check keys.

    In VS Code with the YAML extension, or any editor with yaml-language-server, the job file then starts with the line
    "# yaml-language-server: $schema=job.schema.json".

    Example: flashvid schema > job.schema.json
    """
    write_json(Console(), job_schema())


def check(path: Path, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What `--json` shows: `valid`, and `faults` or the number of `videos` and `answers`."""
    from flashvid.errors import FatalError
    from jobs.job_file import check_job
    from pipeline.config import JobConfig

    try:
        job = check_job(path, overrides)
        if isinstance(job, JobConfig):
            return {"valid": True, "faults": [], **_count(job)}
        faults = [asdict(fault) for fault in job]
    except FatalError as error:
        # Of a table, or of the file as a whole.
        where = "" if error.row == str(path) else error.row or ""
        faults = [{"where": where, "line": None, "key": None, "message": error.message}]
    return {"valid": False, "faults": faults}


def _count(job: JobConfig) -> dict[str, int]:
    from pipeline.inputs.job_inputs import read_tables

    videos, questions = read_tables(job)
    return {
        "videos": len(videos),
        "answers": sum(len(questions.for_video(video.video_id)) for video in videos),
    }


def job_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what a job file may hold, its short forms included."""
    from pipeline.config import JobConfig

    described = JobConfig.model_json_schema()
    inline = next(kind for kind in described["properties"]["questions"]["anyOf"] if kind["type"] == "array")
    # A question may be its text alone, and a schema may stand right in the job: both are read by validators.
    inline["items"] = {"anyOf": [{"type": "string"}, inline["items"]]}
    described["$defs"]["GenerationConfig"]["properties"]["json_schema"]["anyOf"].insert(0, {"type": "object"})
    return {"$schema": _DIALECT, **described}
