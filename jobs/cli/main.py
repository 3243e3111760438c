"""The `flashvid` command.

Exit codes: 0 the run completed (what failed is in `failures/`), 1 unexpected error (of `verify`, `doctor` and `bench`:
something found), 2 the job, its inputs or its settings were refused, 3 storage or the cluster is away, or there is no
space: the same command may work later, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from flashvid.errors import FatalError, TransientError
from jobs.cli import bench_commands, care_commands, cluster_commands
from jobs.cli.convert_command import convert
from jobs.cli.doctor_command import doctor
from jobs.cli.evaluate_command import evaluate
from jobs.cli.init_command import init
from jobs.cli.inspect_command import inspect
from jobs.cli.options import NO_SPACE, AsJson, Limit, Overrides, job_overrides
from jobs.cli.plan_command import plan
from jobs.cli.report_command import report
from jobs.cli.validate_command import schema, validate

_REFUSED = 2
_AWAY = 3
_SIGNALLED = 128
# Places that no file can have: below a file, say.
_NO_PLACE = (errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Batch video understanding: videos and questions in, answers in Parquet out.",
)


def main() -> None:
    """Entry point of the console script: what a person can mend becomes one message, not a traceback."""
    # Before Ray is imported: a thread that is still at work when a run has disconnected would otherwise have Ray
    # connect to any cluster that it finds on this machine.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    errors = Console(stderr=True)
    try:
        app()
    except SystemExit as ended:
        if isinstance(ended.code, int) and ended.code > _SIGNALLED:
            # All is committed and closed. Threads of Ray and Arrow may still be at work, though, and would abort the
            # process while Python ends (-6, seen after SIGTERM): it is left as it is.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)
        raise
    except (FatalError, TransientError, OSError) as error:
        code = _exit_code(error)
        if code is None:
            raise
        # Whole lines: a path broken in two can be neither searched for nor copied.
        errors.print(Text(f"{type(error).__name__}: {error}", style="red"), soft_wrap=True)
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    """The exit code of what a person can mend; None for what is a fault of ours."""
    number = getattr(error, "errno", None)
    if isinstance(error, FatalError | PermissionError) or number in _NO_PLACE:
        return _REFUSED
    return _AWAY if isinstance(error, TransientError) or number in NO_SPACE else None


@app.callback()
def _root() -> None:
    """Keep `run` a subcommand, whatever the number of commands."""


@app.command()
def run(
    job: Annotated[Path, typer.Argument(help="the job file (YAML)")],
    fork: Annotated[
        bool, typer.Option("--fork", help="go on with changed settings, beside the earlier answers")
    ] = False,
    address: Annotated[str | None, typer.Option(help="Ray cluster; default: RAY_ADDRESS, else this machine")] = None,
    overrides: Overrides = None,
    limit: Limit = None,
    log_json: Annotated[
        bool, typer.Option("--log-json", help="the run's log on stderr, a JSON object per line, without secrets")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring a job's output up to date: a first run, a resumed one, and one with new questions are the same command.

    Example: flashvid run job.yaml --set compression.retention_ratio=0.1 --fork
    """
    # Here, not above: `flashvid --help` need not wait for torch and Ray.
    from jobs.cli.run_command import run_and_report
    from jobs.job_file import load_job

    with _resumable():
        settings = load_job(job, job_overrides(overrides, limit))
        on_log = partial(print, file=sys.stderr, flush=True) if log_json else lambda _: None
        run_and_report(settings, fork=fork, address=address, on_log=on_log, as_json=as_json)


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="folder for videos, job file, tokens and answers")] = Path("demo-output"),
) -> None:
    """Run the main job on a few real video files with the embedded model, and show the answers.

    Example: flashvid demo --output demo-output
    """
    from jobs.demo import run_demo

    with _resumable():
        run_demo(output)


@app.command()
def models(
    name: Annotated[
        str | None, typer.Argument(help="a directory, hub id or embedded model to look at; default: all that is known")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the supported model families, their published settings, the embedded models and what each needs.

    With a name, say which family that model is taken for, and what it lacks, if anything (exit code 2).

    Example: flashvid models --json
    """
    from jobs.cli.models_command import show_model, show_models

    if name is None:
        show_models(as_json=as_json)
    else:
        show_model(name, as_json=as_json)


app.command()(init)
app.command()(validate)
app.command()(schema)
app.command()(plan)
app.command()(evaluate)
app.command()(convert)
app.command()(report)
app.command()(inspect)
app.command()(doctor)
care_commands.register(app)
cluster_commands.register(app)

app.add_typer(bench_commands.bench, name="bench")


@contextmanager
def _resumable() -> Iterator[None]:
    """Ctrl-C and SIGTERM end a command with a sentence, after what was done is committed.

    Typer alone would end it without one, and a SIGTERM without committing.
    """
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        number = signal.SIGINT if isinstance(stopped, KeyboardInterrupt) else signal.SIGTERM
        if isinstance(stopped, SystemExit) and stopped.code != number:
            raise
        Console(stderr=True).print("interrupted: what is committed stays; the same command goes on from there")
        raise typer.Exit(_SIGNALLED + number) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, _: FrameType | None) -> NoReturn:
    # As Ray's own handler does it, which takes the place of this one while a run is connected.
    sys.exit(number)


if __name__ == "__main__":
    main()
