"""Commands that plan and run a job on this machine or a cluster: plan, run, demo."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson, Fork, JobFile, Limit, Overrides, open_job
from jobs.cli.printing import print_json, print_table, print_text, shown

if TYPE_CHECKING:
    from pipeline.config import JobConfig
    from pipeline.run.summary import RunSummary

# Exit codes of a signal: this plus its number.
SIGNALLED = 128
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
    frames_per_second: Annotated[float | None, typer.Option(min=0.0, help="of one encode actor; default: same")] = None,
    answers_per_second: Annotated[
        float | None, typer.Option(min=0.0, help="of one answer actor; default: same")
    ] = None,
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
    from jobs.cli.display import preview_rows
    from pipeline.plan.estimates import Rates
    from pipeline.plan.hardware import Hardware
    from pipeline.plan.preview import preview

    given = {"num_cpus": cpus, "num_gpus": gpus, "gpu_bytes": None if gpu_memory is None else int(gpu_memory * 1e9)}
    known: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    found = preview(
        open_job(job, overrides, limit),
        replace(Hardware.here(), **known),
        given_rates=Rates(decode_frames_per_second, frames_per_second, answers_per_second),
        gpu_hour_price=gpu_hour_price,
        max_probes=max_probes,
    )
    if as_json:
        print_json({**asdict(found), "memory": [{**asdict(actor), "fits": actor.fits} for actor in found.memory]})
    else:
        print_table((), preview_rows(found))


def run(
    job: JobFile,
    fork: Fork = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, else this machine")] = None,
    overrides: Overrides = None,
    limit: Limit = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="write the log to stderr as lines of JSON")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a job's output up to date. The first run, a resumed run and a run with new questions are all this command.

    Example: flashvid run job.yaml --set compression.retention_ratio=0.1 --fork
    """
    from jobs.cli.display import summary_rows

    with _resumable():
        settings = open_job(job, overrides, limit)

        options: dict[str, Any] = {"fork": fork, "address": address}
        if log_json:
            options["on_log"] = partial(print, file=sys.stderr, flush=True)
        summary = _run(settings, to_stderr=as_json, **options)
        if as_json:
            print_json(asdict(summary))
            return
        print_table((), summary_rows(summary), f"run {summary.run_id}")
        if summary.clips_planned:
            look = shlex.join(["flashvid", "report", summary.output])
            print_text(f"{look} writes an HTML page of the answers, and of the failures by cause")


def demo(
    output: Annotated[Path, typer.Option(help="folder for everything that it writes")] = Path("demo-output"),
) -> None:
    """Run a job on a few real video files with the embedded model, and show the answers.

    A second run finds everything answered; delete the folder to start again.

    Example: flashvid demo --output demo-output
    """
    from importlib.resources import files

    import pyarrow.dataset as ds

    from jobs.cli.display import summary_rows
    from jobs.demo import write_samples

    with _resumable():
        videos = write_samples(output)
        print_text(f"{len(videos)} sample videos in {output / 'videos'}, questions in {output / 'questions.csv'}")
        job_file = output / "job.yaml"
        job_file.write_text(files("jobs").joinpath("examples/demo.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        summary = _run(open_job(job_file))
        print_table((), summary_rows(summary), f"run {summary.run_id}")
        answers = Path(summary.output) / "answers" / f"fingerprint={summary.answers_fingerprint}"
        columns = ["video_id", "question", "expected_answer", "response", "num_visual_tokens"]
        rows = ds.dataset(answers, format="parquet").to_table(columns=columns).sort_by("video_id").to_pylist()
        expected = [row for row in rows if row["expected_answer"] is not None]
        right = [row for row in expected if row["response"] == row["expected_answer"]]
        marks = ["✓" if row in right else "✗" if row in expected else "" for row in rows]
        cells = ([*row.values(), mark] for row, mark in zip(rows, marks, strict=True))
        print_table(("video", "question", "expected", "answer", "tokens", "right"), cells)
        print_text(f"{len(right)} of {len(expected)} answers are right")
        print_text(f"the job file: {job_file}\nthe answers as Parquet: {answers}/shard=*/part-*.parquet")


def _run(job: JobConfig, *, to_stderr: bool = False, **options: Any) -> RunSummary:  # noqa: ANN401 - of the run
    """Run a job with live progress and notices, and with options of `pipeline.run.run.run`."""
    # Late imports: `flashvid --help` waits for none of them.
    from rich.console import Console
    from rich.text import Text

    from jobs.cli.display import live_progress
    from pipeline.run.run import run as run_job

    console = Console(stderr=to_stderr)

    def notice(sentence: str) -> None:
        console.print(Text(shown(sentence), style="yellow"))

    with live_progress(console) as show:
        return run_job(job, on_progress=show, on_notice=notice, **options)


@contextmanager
def _resumable() -> Iterator[None]:
    """On Ctrl-C and SIGTERM, commit what is done and end the command with a sentence.

    Typer alone would end without a sentence, and after SIGTERM without committing.
    """
    # As Ray's own handler does it, which replaces this one while a run is connected.
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(number))
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        number = signal.SIGINT if isinstance(stopped, KeyboardInterrupt) else signal.SIGTERM
        if isinstance(stopped, SystemExit) and stopped.code != number:
            raise
        print_text("interrupted: what is committed stays; the same command continues from there", to_stderr=True)
        raise typer.Exit(SIGNALLED + number) from None
    finally:
        signal.signal(signal.SIGTERM, before)
