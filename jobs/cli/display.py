"""What a plan and a run show in a terminal: tables, and live progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from pipeline.plan.preview import Preview
from pipeline.printable import printable
from pipeline.run.summary import Progress, RunSummary


@contextmanager
def live_progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Show clips and answers done, rate, time left and failures while the block runs."""
    columns = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), TextColumn("{task.fields[detail]}"))
    with Bars(TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), *columns, console=console) as bars:
        clips, answers = (bars.add_task(name, total=None, detail="", visible=False) for name in ("clips", "answers"))

        def show(progress: Progress) -> None:
            rate = f"{progress.clips_done / progress.seconds:.2f}/s" if progress.seconds else ""
            done, total = progress.clips_done, progress.clips_planned
            bars.update(clips, completed=done, total=total, detail=rate, visible=True)
            done, total, failures = progress.answers_done, progress.answers_planned, f"{progress.failures} failures"
            bars.update(answers, completed=done, total=total, detail=failures, visible=True)

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
    if summary.answers_unaskable:
        yield "not asked", _unaskable(summary.answers_unaskable)
    for stage, seconds in sorted(summary.stage_seconds.items()):
        yield f"{stage} seconds", f"{seconds:.2f}"
    yield "wall seconds", f"{summary.seconds:.1f}"
    yield "answers in", f"{summary.output}/answers/fingerprint={summary.answers_fingerprint}"
    if summary.failures_new or summary.answers_exhausted or summary.answers_unaskable:
        yield "failures in", f"{summary.output}/failures/fingerprint={summary.answers_fingerprint}"


def preview_rows(found: Preview) -> Iterator[tuple[str, str]]:
    todo = found.work
    for note in found.notes:
        yield "note", printable(note)
    cached = f"{found.clips_cached} with tokens to answer from"
    yield "clips", f"{found.clips_to_encode} to encode, {cached}, of {found.clips_total}"
    if found.clips_unusable:
        kinds = ", ".join(f"{count} {reason}" for reason, count in found.clips_unusable.items())
        yield "would fail", f"{kinds}: the run puts them into failures/"
    if found.changed_sources:
        yield "changed sources", printable(", ".join(found.changed_sources))
    if found.clips_to_encode > todo.clips_known:
        yield "headers", f"known of {todo.clips_known} clips to encode; the others count as their mean"
    yield "frames", f"{todo.frames:,} to decode"
    yield "visual tokens", f"{todo.visual_tokens:,} before, {todo.kept_tokens:,} at the asked retention"
    yield "answers", f"{todo.answers:,} to make, {found.answers_done:,} done, of {found.answers_total:,}"
    if todo.answers_retried or found.answers_exhausted:
        yield "failed before", f"{todo.answers_retried:,} answers are retried, {found.answers_exhausted:,} are not"
    if found.answers_unaskable:
        yield "not asked", _unaskable(found.answers_unaskable)
    unsized = f", {todo.unsized_files} files of unknown size" if todo.unsized_files else ""
    yield "to read", f"{_bytes(todo.read_bytes)} of video{unsized}"
    yield "to write", f"about {_bytes(todo.write_bytes)}"
    yield from _time_rows(found)
    for actor in found.memory:
        there = "of unknown size" if actor.bytes_there is None else f"of {_bytes(actor.bytes_there)}"
        fits = {True: "fits", False: "DOES NOT FIT", None: "give --gpu-memory"}[actor.fits]
        where = f"{actor.num_gpus:g} GPU" if actor.num_gpus else "no GPU"
        needed = f"{_bytes(actor.bytes_needed)} {there}, {fits}; {actor.actors} actors, {where} each"
        yield f"{actor.stage} memory", needed
    if found.placement_problem:
        yield "cluster", found.placement_problem
    if found.changed_settings:
        yield "refused", found.changed_settings


def _unaskable(count: int) -> str:
    return f"{count:,} questions that use an empty column of their video's row"


def _time_rows(found: Preview) -> Iterator[tuple[str, str]]:
    if (lasts := found.duration) is None:
        return
    stages = {stage: "unknown" if value is None else _hours(value) for stage, value in lasts.stage_hours.items()}
    hours = ", ".join(f"{stage} {value}" for stage, value in stages.items())
    if lasts.hours is None:
        yield "time", hours
        given = "--decode-frames-per-second, --frames-per-second and --answers-per-second"
        yield "rates", f"not all known yet: a run with this output measures them, or give {given}"
    else:
        yield "time", f"{hours}; at the same time, so about {_hours(lasts.hours)}"
        if found.rates.measured_in:
            yield "rates", f"measured in {', '.join(found.rates.measured_in)}"
    if lasts.gpu_hours is not None:
        yield "GPU hours", f"{lasts.gpu_hours:.2f}"
    if lasts.cost is not None:
        yield "cost", f"{lasts.cost:,.2f}"


def _bytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.1f} s"
