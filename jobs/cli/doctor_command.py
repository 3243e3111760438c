"""`flashvid doctor`: does what a run needs work here?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.cli.options import AsJson, StorageOptions, assignments, write_json

if TYPE_CHECKING:
    from jobs.doctor import Check

_FOUND = 1
_STYLES = {"ok": "green", "note": "yellow", "failed": "bold red"}
_JOB_FILES = (".yaml", ".yml", ".json")


def doctor(
    job: Annotated[
        str | None, typer.Argument(help="a job file, or a folder or URL that a job is to write to; default: no storage")
    ] = None,
    address: Annotated[str | None, typer.Option(help="a Ray cluster, HOST:PORT; default: none is looked at")] = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation, the GPU, a job's tables and storage, and a cluster, by trying each.

    Writes one small object where the job would write, and deletes it. Exit code 1 if a check fails.

    Example: flashvid doctor job.yaml --address 10.0.0.1:6379
    """
    found = list(_checks(job, address, storage_option))
    failed = sum(check.state == "failed" for check in found)
    console = Console()
    if as_json:
        write_json(console, {"failed": failed, "checks": [asdict(check) for check in found]})
    else:
        _show(console, found)
        console.print(f"{failed} of {len(found)} checks failed" if failed else f"{len(found)} checks, none failed")
    if failed:
        raise typer.Exit(_FOUND)


def _checks(job: str | None, address: str | None, storage_option: list[str] | None) -> Iterator[Check]:
    # Here, not above: `flashvid --help` need not wait for torch and Ray.
    from jobs.doctor import check_cluster, check_gpu, check_installation, check_storage, check_tables
    from jobs.job_file import load_job

    settings = load_job(job) if job and Path(job).suffix in _JOB_FILES else None
    yield from check_installation()
    yield from check_gpu()
    if settings is not None:
        yield from check_tables(settings)
        for key, url in (("output", settings.output), ("cache", settings.cache or None)):
            if url is not None:
                yield from check_storage(key, url, settings.storage_options)
    elif job:
        yield from check_storage("output", job, assignments(storage_option, "--storage-option"))
    if address:
        yield from check_cluster(address)


def _show(console: Console, found: list[Check]) -> None:
    table = Table()
    for title in ("", "check", "found"):
        table.add_column(title, overflow="fold")
    for check in found:
        # Text, not markup: messages hold paths, and these square brackets.
        lines = [check.found, *([f"-> {check.fix}"] if check.fix else [])]
        name = Text(f"{check.area}: {check.name}")
        table.add_row(Text(check.state, style=_STYLES[check.state]), name, Text("\n".join(lines)))
    console.print(table)
