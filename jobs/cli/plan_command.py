"""`flashvid plan`: what a run would do and take, before anything is spent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import AsJson, JobFile, Limit, Overrides, open_job
from jobs.cli.printing import print_json, print_rows

if TYPE_CHECKING:
    from pipeline.plan.preview import Preview

_GB = 1_000_000_000
_MAX_PROBES = 1000


def plan(
    job: JobFile,
    overrides: Overrides = None,
    limit: Limit = None,
    cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of the cluster; default: this machine's")] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of the cluster; default: this machine's")] = None,
    gpu_memory: Annotated[float | None, typer.Option(min=0, help="GB of one GPU; default: this machine's")] = None,
    decode_frames_per_second: Annotated[
        float | None, typer.Option(min=0.0, help="of one decode actor; default: measured in earlier runs")
    ] = None,
    frames_per_second: Annotated[float | None, typer.Option(min=0.0, help="of one encode actor; likewise")] = None,
    answers_per_second: Annotated[float | None, typer.Option(min=0.0, help="of one answer actor; likewise")] = None,
    gpu_hour_price: Annotated[float | None, typer.Option(min=0.0, help="of one GPU, in any currency")] = None,
    max_probes: Annotated[int, typer.Option(min=1, help="the most headers of new files to read")] = _MAX_PROBES,
    as_json: AsJson = False,
) -> None:
    """Say what a run would do and take: clips, frames, tokens, answers, bytes, hours, cost, memory.

    Starts no Ray and loads no weights. Reads the tables, the names of committed objects, and the headers of new files,
    which it keeps in the output's probes/ as a run does; it writes nothing else. Files beyond --max-probes count as the
    mean of the others.

    Example: flashvid plan job.yaml --gpus 8 --gpu-memory 80 --frames-per-second 120 --answers-per-second 2.5
    --gpu-hour-price 1.8
    """
    from pipeline.plan.estimates import Rates
    from pipeline.plan.preview import Hardware, preview

    here = Hardware.here()
    hardware = replace(
        here,
        num_cpus=here.num_cpus if cpus is None else cpus,
        num_gpus=here.num_gpus if gpus is None else gpus,
        gpu_bytes=here.gpu_bytes if gpu_memory is None else int(gpu_memory * _GB),
    )
    found = preview(
        open_job(job, overrides, limit),
        hardware,
        given_rates=Rates(decode_frames_per_second, frames_per_second, answers_per_second),
        gpu_hour_price=gpu_hour_price,
        max_probes=max_probes,
    )
    if as_json:
        print_json({**asdict(found), "memory": [{**asdict(actor), "fits": actor.fits} for actor in found.memory]})
    else:
        print_rows(_rows(found))


def _rows(found: Preview) -> Iterator[tuple[str, str]]:
    todo = found.work
    cached = f"{found.clips_cached} with tokens to answer from"
    yield "clips", f"{found.clips_to_encode} to encode, {cached}, of {found.clips_total}"
    if found.clips_unusable:
        kinds = ", ".join(f"{count} {reason}" for reason, count in found.clips_unusable.items())
        yield "would fail", f"{kinds}: the run puts them into failures/"
    if found.changed_sources:
        yield "changed sources", ", ".join(found.changed_sources)
    if found.clips_to_encode > todo.clips_known:
        yield "headers", f"known of {todo.clips_known} clips to encode; the others count as their mean"
    yield "frames", f"{todo.frames:,} to decode"
    yield "visual tokens", f"{todo.visual_tokens:,} before, {todo.kept_tokens:,} at the asked retention"
    yield "answers", f"{todo.answers:,} to make, {found.answers_done:,} done, of {found.answers_total:,}"
    if todo.answers_retried or found.answers_exhausted:
        yield "failed before", f"{todo.answers_retried:,} answers are retried, {found.answers_exhausted:,} are not"
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


def _time_rows(found: Preview) -> Iterator[tuple[str, str]]:
    if found.duration is None:
        return
    lasts = found.duration
    hours = ", ".join(
        f"{stage} {'unknown' if value is None else _hours(value)}" for stage, value in lasts.stage_hours.items()
    )
    if lasts.hours is None:
        yield "time", hours
        given = "--decode-frames-per-second, --frames-per-second and --answers-per-second"
        yield "rates", f"not all known yet: a run with this output measures them, or give {given}"
    else:
        yield "time", f"{hours}; at the same time, so about {_hours(lasts.hours)}"
    if lasts.hours is not None and found.rates.measured_in:
        yield "rates", f"measured in {', '.join(found.rates.measured_in)}"
    if lasts.gpu_hours is not None:
        yield "GPU hours", f"{lasts.gpu_hours:.2f}"
    if lasts.cost is not None:
        yield "cost", f"{lasts.cost:,.2f}"


def _bytes(count: int) -> str:
    return f"{count / _GB:,.2f} GB" if count >= _GB / 100 else f"{count / 1e6:.2f} MB"


def _hours(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.1f} s"
