"""`flashvid doctor`: check that what a run needs works here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from jobs.cli.options import AsJson, StorageOptions, assignments, open_job
from jobs.cli.printing import print_json, print_table, print_text

if TYPE_CHECKING:
    from jobs.doctor import Check

_FOUND = 1
_STYLES = {"ok": "green", "note": "yellow", "failed": "bold red"}
_JOB_FILES = (".yaml", ".yml", ".json")


def doctor(
    job: Annotated[str | None, typer.Argument(help="a job file, or the folder or URL of a job's output")] = None,
    address: Annotated[str | None, typer.Option(help="a Ray cluster, HOST:PORT; default: check no cluster")] = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation, the GPU, a job's tables and storage, and a cluster, by using each.

    Writes one small object where the job would write, and deletes it. Exit code 1 if a check fails.

    Example: flashvid doctor job.yaml --address 10.0.0.1:6379
    """
    found = list(_checks(job, address, storage_option))
    failed = sum(check.state == "failed" for check in found)
    if as_json:
        print_json({"failed": failed, "checks": [asdict(check) for check in found]})
    else:
        print_table(
            ("", "check", "found"),
            (
                (
                    Text(check.state, style=_STYLES[check.state]),
                    f"{check.area}: {check.name}",
                    f"{check.found}\n-> {check.fix}" if check.fix else check.found,
                )
                for check in found
            ),
        )
        print_text(f"{failed} of {len(found)} checks failed" if failed else f"{len(found)} checks, none failed")
    if failed:
        raise typer.Exit(_FOUND)


def _checks(job: str | None, address: str | None, storage_option: list[str] | None) -> Iterator[Check]:
    # A late import: `flashvid --help` does not wait for torch and Ray.
    from jobs.doctor import check_cluster, check_gpu, check_installation, check_storage, check_tables

    settings = open_job(Path(job)) if job and Path(job).suffix in _JOB_FILES else None
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
