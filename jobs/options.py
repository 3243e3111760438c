"""What several commands take, in the same words, and how they write JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from jobs.assignment import assignment

if TYPE_CHECKING:
    from pipeline.storage import Storage

AsJson = Annotated[bool, typer.Option("--json", help="one JSON object, for programs")]
Output = Annotated[str, typer.Argument(help="folder or URL of an output")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the job file, e.g. sampling.num_frames=16")
]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option("--storage-option", help="key=value for fsspec, as storage_options of a job; may be repeated"),
]
Fingerprint = Annotated[str | None, typer.Option(help="whose answers; default: those of the latest run")]


def assignments(texts: list[str] | None, option: str) -> dict[str, Any]:
    """Values by key. Raises ConfigurationError for a text that is not key=value."""
    return dict(assignment(text, option) for text in texts or [])


def open_storage(url: str, storage_options: list[str] | None) -> Storage:
    """An output, as `--storage-option` says how."""
    from pipeline.storage import Storage

    return Storage(url, assignments(storage_options, "--storage-option"))


def write_json(console: Console, content: object) -> None:
    """One JSON object on the console's file: rich would break long lines, and NaN is no JSON."""
    console.file.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
