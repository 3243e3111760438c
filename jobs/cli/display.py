"""What a run shows in a terminal: a live line while it works, a table when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import (
    Progress as Bars,
)

from jobs.cli.options import write_rows
from pipeline.run.summary import Progress, RunSummary


@contextmanager
def live_progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show clips and answers done of total, rate, time left and failures while the block runs."""
    bars = Bars(
        TextColumn("{task.description:8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
        console=console,
        transient=False,
    )
    tasks: dict[str, TaskID] = {}

    def show(progress: Progress) -> None:
        for name, done, total, detail in _lines(progress):
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total, detail="")
            bars.update(tasks[name], completed=done, total=total, detail=detail)

    with bars:
        yield show


def _lines(progress: Progress) -> Sequence[tuple[str, int, int, str]]:
    rate = progress.clips_done / progress.seconds if progress.seconds else 0.0
    left = (progress.clips_planned - progress.clips_done) / rate if rate else None
    eta = "" if left is None else f", about {_duration(left)} left"
    return (
        ("clips", progress.clips_done, progress.clips_planned, f"{rate:.2f}/s{eta}"),
        ("answers", progress.answers_done, progress.answers_planned, f"{progress.failures} failures"),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def print_summary(console: Console, summary: RunSummary) -> None:
    """The table a run ends with."""
    write_rows(console, _summary_rows(summary), f"run {summary.run_id}")


def _summary_rows(summary: RunSummary) -> Iterator[tuple[str, str]]:
    yield "clips", f"{summary.clips_planned} worked on, of {summary.clips_total}"
    yield "frames decoded", f"{summary.frames_decoded} of {summary.clips_decoded} clips"
    if summary.clips_sampled_down:
        yield "sampled down", f"{summary.clips_sampled_down} clips, to sampling.max_frames"
    yield "encoder calls", str(summary.encoder_calls)
    yield "cache hits", f"{summary.cache_hits} clips"
    yield "visual tokens", f"{summary.visual_tokens_before} before, {summary.visual_tokens_after} after"
    if summary.realised_retention is not None:
        yield "retention", f"{summary.retention_ratio:.4f} asked, {summary.realised_retention:.4f} realised"
    yield (
        "answers",
        f"{summary.answers_new} new, {summary.answers_before} before, of {summary.answers_total}",
    )
    yield "failures", f"{summary.failures_new} new, {summary.answers_exhausted} answers not tried again"
    for stage, seconds in sorted(summary.stage_seconds.items()):
        yield f"{stage} seconds", f"{seconds:.2f}"
    yield "wall seconds", f"{summary.seconds:.1f}"
    yield "answers in", f"{summary.output}/answers/fingerprint={summary.answers_fingerprint}"
    if summary.failures_new or summary.answers_exhausted:
        yield "failures in", f"{summary.output}/failures/fingerprint={summary.answers_fingerprint}"
