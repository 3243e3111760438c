"""What commands take in the same words: options, a job file with its overrides, an output with its storage options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.config import JobConfig
    from pipeline.store.storage import Storage

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object, for programs")]
JobFile = Annotated[Path, typer.Argument(help="the job file (YAML)")]
Output = Annotated[str, typer.Argument(help="folder or URL of an output")]
Fork = Annotated[bool, typer.Option("--fork", help="continue with changed settings; earlier answers stay")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="key=value for a key of the job; may be repeated")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="use only the first N videos, for a trial")]
StorageOptions = Annotated[list[str] | None, typer.Option(help="key=value for fsspec; may be repeated")]
Fingerprint = Annotated[str | None, typer.Option(help="which answers to use; default: those of the latest run")]


def assignments(texts: list[str] | None, option: str) -> dict[str, Any]:
    """Parse `key=value` texts; values are YAML. Raises ConfigurationError that names the option."""
    from flashvid.errors import ConfigurationError
    from jobs.bounded_yaml import read_yaml

    found = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"{option} {text!r} is not key=value")
        try:
            found[key] = read_yaml(value)
        except ValueError:
            raise ConfigurationError(f"{option} {text!r}: the value is not YAML") from None
    return found


def open_job(job: Path, overrides: list[str] | None = None, limit: int | None = None) -> JobConfig:
    """Read a job file with `--set` and `--limit` applied. Raises ConfigurationError, see `jobs.job_file.load_job`."""
    from jobs.job_file import load_job

    return load_job(job, assignments(overrides, "--set") | ({} if limit is None else {"limit": limit}))


def open_storage(url: str, storage_options: list[str] | None) -> Storage:
    """Open an output with the options given by `--storage-option`."""
    from pipeline.store.storage import Storage

    return Storage(url, assignments(storage_options, "--storage-option"))
