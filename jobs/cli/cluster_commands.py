"""Commands for a job on a cluster: submit, status, logs, stop, list. They start no Ray of their own."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson, Fork, JobFile, Limit, Output, Overrides, StorageOptions, open_job, open_storage
from jobs.cli.printing import PROBLEM, print_json, print_result, print_table, shown
from pipeline.printable import printable

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

    from pipeline.care.status import OutputStatus

_POLL_S = 1.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Address = Annotated[str | None, typer.Option(help="URL of the job API, http://HEAD:8265; default: RAY_ADDRESS")]
JobId = Annotated[str, typer.Argument(help="the job's id, as flashvid submit and flashvid list print it")]


def submit(
    job: JobFile,
    address: Address = None,
    shared: Annotated[
        list[str] | None, typer.Option(help="local folder that every node sees under the same path; may be repeated")
    ] = None,
    installed: Annotated[bool, typer.Option("--installed", help="run the cluster's flashvid, send none")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="print the log until the end; exit code 1 if it fails")] = False,
    fork: Fork = False,
    overrides: Overrides = None,
    limit: Limit = None,
    as_json: AsJson = False,
) -> None:
    """Submit a job to a Ray cluster. Submitted again, it continues from what is committed.

    The job file and this code are sent; the nodes must reach videos, output and models themselves.

    Example: flashvid submit job.yaml --address http://127.0.0.1:8265
    """
    from jobs.job_api import job_api, send
    from jobs.shipping import fill_working_dir, for_cluster

    folders = tuple(str(Path(folder).absolute()) for folder in shared or [])
    settings = for_cluster(open_job(job, overrides, limit), folders)
    with job_api(address) as client:
        with TemporaryDirectory(prefix="flashvid-submit-") as folder:
            entrypoint = fill_working_dir(Path(folder), settings, with_code=not installed)
            job_id = send(client, Path(folder), f"{entrypoint} --fork" if fork else entrypoint, settings)
        # Commands to copy, for the same cluster.
        there = ["--address", address] if address else []
        commands = (["logs", job_id, "--follow", *there], ["stop", job_id, *there], ["status", settings.output])
        lines = [f"{job_id} is submitted", *(f"  {shlex.join(['flashvid', *words])}" for words in commands)]
        print_result({"job_id": job_id, "output": settings.output}, "\n".join(lines), as_json=as_json)
        if wait:
            _follow(client, job_id)
            if client.get_job_status(job_id) != "SUCCEEDED":
                raise typer.Exit(PROBLEM)


def status(
    output: Output, address: Address = None, storage_option: StorageOptions = None, as_json: AsJson = False
) -> None:
    """Show the state of an output: latest run, answers, failures. Reads its tables, without a cluster.

    With an address, also show what Ray says about the jobs that write to it.

    Example: flashvid status s3://bucket/output --json
    """
    from jobs.job_api import job_api, our_jobs
    from pipeline.care.status import output_status

    found, ray_jobs = output_status(open_storage(output, storage_option)), None
    if address is not None:
        with job_api(address) as client:
            ray_jobs = [_described(job) for job in our_jobs(client, output)]
    if as_json:
        print_json({**asdict(found), "jobs": ray_jobs})
        return
    rows = [*_status_rows(found), *(("job", f"{job['job_id']}: {job['status']}") for job in ray_jobs or [])]
    print_table((), [(name, printable(value)) for name, value in rows])


def logs(
    job_id: JobId,
    address: Address = None,
    follow: Annotated[bool, typer.Option("--follow", help="print until the job ends")] = False,
) -> None:
    """Print the log of a job's driver.

    Example: flashvid logs flashvid-1a2b3c4d --follow
    """
    from jobs.job_api import job_api

    with job_api(address) as client:
        if follow:
            _follow(client, job_id)
        else:
            typer.echo(_log_lines(client.get_job_logs(job_id)), nl=False)


def stop(job_id: JobId, address: Address = None, as_json: AsJson = False) -> None:
    """Stop a job as Ctrl-C would: what is committed stays, and the job continues from there if submitted again.

    Example: flashvid stop flashvid-1a2b3c4d
    """
    from jobs.job_api import job_api, output_of

    with job_api(address) as client:
        was_running = client.stop_job(job_id)
        while not client.get_job_status(job_id).is_terminal():
            time.sleep(_POLL_S)
        job = client.get_job_info(job_id)
    said = "is stopped; flashvid submit continues from what is committed" if was_running else f"had ended: {job.status}"
    text = f"{job_id} {said}\n  flashvid status {output_of(job)}"
    print_result({**_described(job), "was_running": was_running}, text, as_json=as_json)


def list_jobs(address: Address = None, as_json: AsJson = False) -> None:
    """List the jobs that flashvid submit sent to a cluster, the latest first.

    Example: flashvid list --address http://127.0.0.1:8265 --json
    """
    from jobs.job_api import job_api, our_jobs

    with job_api(address) as client:
        found = [_described(job) for job in our_jobs(client)]
    if as_json:
        print_json({"jobs": found})
        return
    titles = ("job_id", "status", "started", "output")
    print_table(titles, ([job[name] or "" for name in titles] for job in found))


def _follow(client: JobSubmissionClient, job_id: str) -> None:
    """Print the log as it grows, until the job ends."""

    async def tail() -> None:
        async for lines in client.tail_job_logs(job_id):
            typer.echo(_log_lines(lines), nl=False)

    import asyncio

    asyncio.run(tail())


def _log_lines(text: str) -> str:
    """Return a part of a job's log as it may be printed: colours are left out, see also `shown`."""
    return shown(_COLOUR.sub("", text).replace("\r\n", "\n"))


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
    sign = f", last sign of life {found.seconds_since_sign:.0f} s ago" if found.state in ("running", "lost") else ""
    yield "latest run", f"{found.run_id}: {found.state}{sign}"
    yield "started", f"{found.started} on {found.host}, run {found.runs} of this output"
    total = ""
    if found.answers_total is not None:
        # A run records at its end how many answers there are: until then, the number is of an earlier run.
        total = f" of {found.answers_total}" if found.summary else f"; of {found.answers_total} in the last ended run"
    yield "answers", f"{found.answers}{total}"
    for group in found.failures:
        yield "failures", f"{group.count} {group.error_type} ({group.error_kind}), stage {group.stage}"
    if not found.failures:
        yield "failures", "none"
    if found.held_by is not None:
        yield "held by", found.held_by
    yield "answers in", f"{found.output}/answers/fingerprint={found.fingerprint}"
    if found.state in ("stopped", "lost"):
        yield "to continue", "run the same job again: flashvid run, or flashvid submit"
