"""`flashvid run`: a run with its display."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from rich.console import Console
from rich.text import Text

from jobs.display import live_progress, print_summary
from pipeline.config import JobConfig
from pipeline.run import run
from pipeline.summary import RunSummary


def run_and_report(
    job: JobConfig,
    *,
    fork: bool = False,
    address: str | None = None,
    console: Console | None = None,
    on_log: Callable[[str], object] = lambda _: None,
) -> RunSummary:
    """Run a job with live progress and print its summary.

    Raises:
        FatalError: see `pipeline.run.run`.
    """
    console = console or Console()
    with live_progress(console) as show:
        summary = run(
            job,
            fork=fork,
            address=address,
            on_progress=show,
            on_notice=lambda sentence: console.print(Text(sentence, style="yellow")),
            on_log=on_log,
        )
    print_summary(console, summary)
    if summary.clips_planned:
        look = shlex.join(["flashvid", "report", summary.output])
        console.print(Text(f"{look} makes a page of the answers, and of the failures by cause"), soft_wrap=True)
    return summary
