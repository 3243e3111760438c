"""What several commands take, in the same words, and how they write JSON and small tables."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.assignment import assignment

if TYPE_CHECKING:
    from pipeline.store.storage import Storage

AsJson = Annotated[bool, typer.Option("--json", help="one JSON object, for programs")]
Output = Annotated[str, typer.Argument(help="folder or URL of an output")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="key=value over the job file, e.g. sampling.num_frames=16")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="only the first so many videos: a trial")]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option("--storage-option", help="key=value for fsspec, as storage_options of a job; may be repeated"),
]
# The same command may work later: no fault of what was asked for.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Fingerprint = Annotated[str | None, typer.Option(help="whose answers; default: those of the latest run")]


def assignments(texts: list[str] | None, option: str) -> dict[str, Any]:
    """Values by key. Raises ConfigurationError for a text that is not key=value."""
    return dict(assignment(text, option) for text in texts or [])


def job_overrides(texts: list[str] | None, limit: int | None) -> dict[str, Any]:
    """What `--set` and `--limit` put over a job file. Raises ConfigurationError for a text that is not key=value."""
    return assignments(texts, "--set") | ({} if limit is None else {"limit": limit})


def open_storage(url: str, storage_options: list[str] | None) -> Storage:
    """An output, as `--storage-option` says how."""
    from pipeline.store.storage import Storage

    return Storage(url, assignments(storage_options, "--storage-option"))


def write_json(console: Console, content: object) -> None:
    """One JSON object on the console's file: rich would break long lines, and NaN is no JSON."""
    console.file.write(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_line(console: Console, text: str, style: str = "") -> None:
    """A sentence, whole and as it is: paths may hold brackets and :colons:, which rich reads as markup and emoji."""
    console.print(Text(text, style=style), soft_wrap=True)


def write_file(to: Path, content: bytes, *, replace: bool = False) -> None:
    """Write a whole file or none: what stood there is lost only to a file that is complete.

    Args:
        to: The file; one that is there is refused unless `replace`.
        content: Its bytes.
        replace: Whether it takes the place of an earlier one; a device, such as /dev/stdout, is then written to.

    Raises:
        ConfigurationError: it is there already, or can't be written.
        OSError: there is no space for it (`NO_SPACE`).
    """
    from flashvid.errors import ConfigurationError

    try:
        if replace and to.exists() and not to.is_file():
            to.write_bytes(content)
            return
        place = to.resolve()
        written = place.with_name(f".{place.name}.{os.getpid()}") if replace else place
        with written.open("wb" if replace else "xb") as file:
            try:
                file.write(content)
                file.flush()
                if replace:
                    written.replace(place)
            except OSError:
                written.unlink(missing_ok=True)
                raise
    except FileExistsError:
        raise ConfigurationError("is there already: remove it, or name another place", str(to)) from None
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise ConfigurationError(f"can't be written: {error.strerror}", str(to)) from None


def write_rows(console: Console, rows: Iterable[tuple[str, str]], title: str | None = None) -> None:
    """Names, and what each has, as a table."""
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        # Text, not markup: paths, ids and messages may hold square brackets.
        table.add_row(name, Text(value))
    console.print(table)
