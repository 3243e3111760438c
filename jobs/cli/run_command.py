"""`flashvid run`: a run with its display."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from jobs.cli.display import live_progress, print_summary
from jobs.cli.options import write_json
from pipeline.config import JobConfig
from pipeline.run.run import run
from pipeline.run.summary import RunSummary


def run_and_report(
    job: JobConfig,
    *,
    fork: bool = False,
    address: str | None = None,
    console: Console | None = None,
    on_log: Callable[[str], object] = lambda _: None,
    as_json: bool = False,
) -> RunSummary:
    """Run a job with live progress and print its summary.

    Args:
        job: The job.
        fork: See `pipeline.run.run.run`.
        address: Likewise.
        console: Where to; standard output when omitted.
        on_log: See `pipeline.run.run.run`.
        as_json: The summary as one JSON object, and nothing beside it: what a person would see goes to stderr.

    Raises:
        FatalError: see `pipeline.run.run.run`.
    """
    console = console or Console()
    told = Console(stderr=True) if as_json else console
    with live_progress(told) as show:
        summary = run(
            job,
            fork=fork,
            address=address,
            on_progress=show,
            on_notice=lambda sentence: told.print(Text(sentence, style="yellow")),
            on_log=on_log,
        )
    if as_json:
        write_json(console, asdict(summary))
        return summary
    print_summary(console, summary)
    if summary.clips_planned:
        look = shlex.join(["flashvid", "report", summary.output])
        console.print(Text(f"{look} makes a page of the answers, and of the failures by cause"), soft_wrap=True)
    return summary
