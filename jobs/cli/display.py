"""What a run shows in a terminal: live progress while it works, and a table when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from pipeline.run.summary import Progress, RunSummary


@contextmanager
def live_progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show clips and answers done, rate, time left and failures while the block runs."""
    columns = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[detail]}"))
    with Bars(TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), *columns, console=console) as bars:
        clips, answers = (bars.add_task(name, total=None, detail="", visible=False) for name in ("clips", "answers"))

        def show(progress: Progress) -> None:
            rate = f"{progress.clips_done / progress.seconds:.2f}/s" if progress.seconds else ""
            failures = f"{progress.failures} failures"
            for task, done, total, detail in (
                (clips, progress.clips_done, progress.clips_planned, rate),
                (answers, progress.answers_done, progress.answers_planned, failures),
            ):
                bars.update(task, completed=done, total=total, detail=detail, visible=True)

        yield show


def summary_rows(summary: RunSummary) -> Iterator[tuple[str, str]]:
    """Names and values of the table that a run ends with."""
    yield "clips", f"{summary.clips_planned} processed, of {summary.clips_total}"
    yield "frames decoded", f"{summary.frames_decoded} of {summary.clips_decoded} clips"
    if summary.clips_sampled_down:
        yield "sampled down", f"{summary.clips_sampled_down} clips, to sampling.max_frames"
    yield "encoder calls", str(summary.encoder_calls)
    yield "cache hits", f"{summary.cache_hits} clips"
    yield "visual tokens", f"{summary.visual_tokens_before} before compression, {summary.visual_tokens_after} after"
    if summary.realised_retention is not None:
        yield "retention", f"{summary.retention_ratio:.4f} requested, {summary.realised_retention:.4f} realised"
    yield "answers", f"{summary.answers_new} new, {summary.answers_before} earlier, of {summary.answers_total}"
    yield "failures", f"{summary.failures_new} new, {summary.answers_exhausted} answers not retried"
    for stage, seconds in sorted(summary.stage_seconds.items()):
        yield f"{stage} seconds", f"{seconds:.2f}"
    yield "wall seconds", f"{summary.seconds:.1f}"
    yield "answers in", f"{summary.output}/answers/fingerprint={summary.answers_fingerprint}"
    if summary.failures_new or summary.answers_exhausted:
        yield "failures in", f"{summary.output}/failures/fingerprint={summary.answers_fingerprint}"
