"""How commands print results, and how they write a file.

Every command imports this file, and `flashvid --help` every command: rich and the library are imported late.
"""

import errno
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

# Exit codes: a check found a problem, the command was refused, storage or the cluster can't be reached.
PROBLEM, REFUSED, AWAY = 1, 2, 3


def print_json(content: object) -> None:
    """Print one JSON object, without secrets in its texts. Rich would break long lines, and NaN is not JSON."""
    from pipeline.printable import printable_json
    from pipeline.redaction import redacted_values

    typer.echo(printable_json(redacted_values(content), indent=2))


def shown(text: str) -> str:
    """Return a message as it may be printed: without secrets, and with control characters as visible escapes."""
    from pipeline.printable import printable
    from pipeline.redaction import redacted

    return printable(redacted(text), lines=True)


def print_text(text: str, style: str = "", *, to_stderr: bool = False) -> None:
    """Print a sentence without line breaks or markup: paths may hold brackets and :colons:."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=to_stderr).print(Text(shown(text), style=style), soft_wrap=True)


def print_result(result: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """Print a command's result: the JSON object, or the text."""
    if as_json:
        print_json(result)
    else:
        print_text(text)


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None) -> None:
    """Print a table; cells are one line of text each, not markup, or rich's own `Text`.

    Args:
        headings: Titles of the columns of a table of the user's data. Empty for names and values of a command's own:
            the names are bold, and secrets are hidden as in any message.
        rows: The cells.
        title: Title of the table.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from pipeline.printable import printable

    show: Callable[[object], str] = printable if headings else (lambda cell: shown(str(cell)))
    heading = None if title is None else Text(shown(title))
    table = Table(title=heading, show_header=bool(headings), title_justify="left")
    for one in headings:
        table.add_column(Text(printable(one)))
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(show(cell)) for cell in row))
    for number, column in enumerate(table.columns):
        column.overflow = "fold"
        column.style = "" if headings or number else "bold"
    Console().print(table)


def write_file(to: Path, content: bytes, *, replace: bool = False) -> None:
    """Write a whole file or nothing: an earlier file is replaced only by a complete one.

    Args:
        to: The file; an existing one is refused unless `replace`.
        content: Its bytes.
        replace: Whether to replace an existing file; a device, such as /dev/stdout, is then written to.

    Raises:
        ConfigurationError: the file exists, or can't be written.
        OSError: the disk is full.
    """
    from flashvid.errors import ConfigurationError
    from pipeline.errors import FULL_NUMBERS

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
        raise ConfigurationError("exists already: remove it, or choose another path", str(to)) from None
    except OSError as error:
        if error.errno in FULL_NUMBERS and error.errno != errno.EROFS:
            raise
        raise ConfigurationError(f"can't be written: {error.strerror}", str(to)) from None
