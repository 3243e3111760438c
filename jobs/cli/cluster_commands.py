"""Commands for a job on a cluster: submit, status, logs, stop, list. They start no Ray of their own."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.cli.options import (
    AsJson,
    Limit,
    Output,
    Overrides,
    StorageOptions,
    job_overrides,
    open_storage,
    write_json,
    write_rows,
)

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

    from pipeline.care.status import OutputStatus

_FAILED = 1
_POLL_S = 1.0

Address = Annotated[
    str | None, typer.Option(help="URL of the cluster's job API, http://HEAD:8265; default: RAY_ADDRESS")
]
JobId = Annotated[str, typer.Argument(help="as flashvid submit and flashvid list print it")]


def register(app: typer.Typer) -> None:
    """Add the commands to `flashvid`."""
    for command in (submit, status, logs, stop):
        app.command()(command)
    app.command(name="list")(list_jobs)


def submit(
    job: Annotated[Path, typer.Argument(help="the job file (YAML)")],
    address: Address = None,
    shared: Annotated[
        list[str] | None,
        typer.Option(help="local folder that every node sees under the same path; may be repeated"),
    ] = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="run the flashvid that the cluster has, instead of sending this one")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="show its log until it ends; exit code 1 if it fails")] = False,
    fork: Annotated[
        bool, typer.Option("--fork", help="go on with changed settings, beside the earlier answers")
    ] = False,
    overrides: Overrides = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Hand a job in to a Ray cluster. Handed in again, it goes on from what is committed.

    The job file and this code are sent; videos, output and models have to be where the nodes see them.

    Example: flashvid submit job.yaml --address http://127.0.0.1:8265
    """
    from jobs.job_api import job_api, send
    from jobs.job_file import load_job
    from jobs.shipping import fill_working_dir, for_cluster

    folders = tuple(str(Path(folder).absolute()) for folder in shared or [])
    settings = for_cluster(load_job(job, job_overrides(overrides, limit)), folders)
    console = Console()
    with job_api(address) as client:
        with TemporaryDirectory(prefix="flashvid-submit-") as folder:
            entrypoint = fill_working_dir(Path(folder), settings, with_code=not installed)
            job_id = send(client, Path(folder), f"{entrypoint} --fork" if fork else entrypoint, settings)
        if as_json:
            write_json(console, {"job_id": job_id, "output": settings.output})
        else:
            console.print(Text(f"{job_id} is handed in"), soft_wrap=True)
            # To be typed as they are: they go to the same cluster.
            there = ["--address", address] if address else []
            for words in (["logs", job_id, "--follow", *there], ["stop", job_id, *there], ["status", settings.output]):
                console.print(Text(f"  {shlex.join(['flashvid', *words])}"), soft_wrap=True)
        if wait:
            _follow(client, job_id)
            if client.get_job_status(job_id) != "SUCCEEDED":
                raise typer.Exit(_FAILED)


def status(
    output: Output,
    address: Address = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Say how an output stands: its latest run, answers, failures. Read from its tables: no cluster need be there.

    With an address, also what Ray says of the jobs that write to it.

    Example: flashvid status s3://bucket/output --json
    """
    from jobs.job_api import job_api, our_jobs
    from pipeline.care.status import output_status

    found = output_status(open_storage(output, storage_option))
    ray_jobs: list[dict[str, Any]] | None = None
    if address is not None:
        with job_api(address) as client:
            ray_jobs = [_described(job) for job in our_jobs(client, output)]
    console = Console()
    if as_json:
        write_json(console, {**asdict(found), "jobs": ray_jobs})
        return
    of_ray = [("job", f"{job['job_id']}: {job['status']}") for job in ray_jobs or []]
    write_rows(console, [*_status_rows(found), *of_ray])


def logs(
    job_id: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="until it ends")] = False,
) -> None:
    """Print what a job's driver has said.

    Example: flashvid logs flashvid-1a2b3c4d --follow
    """
    from jobs.job_api import job_api

    with job_api(address) as client:
        if follow:
            _follow(client, job_id)
        else:
            typer.echo(client.get_job_logs(job_id), nl=False)


def stop(job_id: JobId, address: Address = None, as_json: AsJson = False) -> None:
    """Stop a job as Ctrl-C would: what is committed stays, and handed in again it goes on.

    Example: flashvid stop flashvid-1a2b3c4d
    """
    from jobs.job_api import job_api, output_of

    with job_api(address) as client:
        was_running = client.stop_job(job_id)
        while not client.get_job_status(job_id).is_terminal():
            time.sleep(_POLL_S)
        job = client.get_job_info(job_id)
    console = Console()
    if as_json:
        write_json(console, {**_described(job), "was_running": was_running})
        return
    said = "is stopped; flashvid submit goes on from what is committed" if was_running else f"was over: {job.status}"
    console.print(Text(f"{job_id} {said}\n  flashvid status {output_of(job)}"), soft_wrap=True)


def list_jobs(address: Address = None, as_json: AsJson = False) -> None:
    """List the jobs that flashvid submit handed in to a cluster, the latest first.

    Example: flashvid list --address http://127.0.0.1:8265 --json
    """
    from jobs.job_api import job_api, our_jobs

    with job_api(address) as client:
        found = [_described(job) for job in our_jobs(client)]
    console = Console()
    if as_json:
        write_json(console, {"jobs": found})
        return
    table = Table()
    for name in ("job_id", "status", "started", "output"):
        table.add_column(name, overflow="fold")
    for job in found:
        table.add_row(*(Text(str(job[name] or "")) for name in ("job_id", "status", "started", "output")))
    console.print(table)


def _follow(client: JobSubmissionClient, job_id: str) -> None:
    """Print the log as it grows, until the job ends."""

    async def tail() -> None:
        async for lines in client.tail_job_logs(job_id):
            typer.echo(lines, nl=False)

    asyncio.run(tail())


def _described(job: JobDetails) -> dict[str, Any]:
    from jobs.job_api import output_of

    started = None if job.start_time is None else datetime.fromtimestamp(job.start_time / 1000, UTC).isoformat()
    return {
        "job_id": job.submission_id,
        "status": str(job.status.value),
        "started": started,
        "output": output_of(job),
        "message": job.message,
    }


def _status_rows(found: OutputStatus) -> Iterator[tuple[str, str]]:
    sign = f", sign of life {found.seconds_since_sign:.0f} s ago" if found.state in ("running", "lost") else ""
    yield "latest run", f"{found.run_id}: {found.state}{sign}"
    yield "started", f"{found.started} on {found.host}, run {found.runs} of this output"
    total = ""
    if found.answers_total is not None:
        # A run says at its end how many there are to be: until then, that is the number of an earlier one.
        total = f" of {found.answers_total}" if found.summary else f"; of {found.answers_total} in the last that ended"
    yield "answers", f"{found.answers}{total}"
    for group in found.failures:
        yield "failures", f"{group.count} {group.error_type} ({group.error_kind}), stage {group.stage}"
    if not found.failures:
        yield "failures", "none"
    if found.held_by is not None:
        yield "at work", found.held_by
    yield "answers in", f"{found.output}/answers/fingerprint={found.fingerprint}"
    if found.state in ("stopped", "lost"):
        yield "to go on", "the same job again: flashvid run, or flashvid submit"
