"""The `flashvid` command. `COMMANDS` below lists every command; each group of commands is one file of this folder.

Exit codes: 0 the run completed (see `failures/` for what failed), 1 unexpected error, or `verify`, `doctor` or `bench`
found a problem, 2 the job, its inputs or its settings were refused, 3 storage or the cluster can't be reached, or there
is no space: the same command may work later, 130 interrupted, 143 terminated.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import typer
from typer.core import TyperGroup

from jobs.cli.bench_commands import bench
from jobs.cli.care_commands import export, forget, gc, retry, verify
from jobs.cli.cluster_commands import list_jobs, logs, status, stop, submit
from jobs.cli.job_file_commands import convert, init, schema, validate
from jobs.cli.printing import AWAY, PROBLEM, REFUSED, print_text
from jobs.cli.probe_command import probe
from jobs.cli.results_commands import evaluate, inspect, report
from jobs.cli.run_commands import SIGNALLED, demo, plan, run
from jobs.cli.setup_commands import doctor, models

# Characters: the first sentence of a help text is never cut.
_WHOLE_SENTENCE = 1000
# Paths that no file can have, such as one below a file.
_NO_PLACE = (errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)

# Every command, by its group in `flashvid --help`; each group is one file. bench_commands.py holds those of `bench`.
COMMANDS: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "Setup": {"doctor": doctor, "models": models},
    "Videos": {"probe": probe},
    "Job files": {"init": init, "validate": validate, "schema": schema, "convert": convert},
    "Runs": {"demo": demo, "plan": plan, "run": run},
    "Runs on a cluster": {"submit": submit, "status": status, "logs": logs, "stop": stop, "list": list_jobs},
    "Results": {"evaluate": evaluate, "report": report, "inspect": inspect},
    "Care of an output": {"export": export, "verify": verify, "retry": retry, "forget": forget, "gc": gc},
}


class _Groups(TyperGroup):
    """Lists the commands by group. Without rich, which takes longer than all the rest of `flashvid --help`."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002 - typer's own click
        """Write a section for each group."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            shown = (name, command.get_short_help_str(limit=_WHOLE_SENTENCE))
            groups.setdefault(str(getattr(command, "rich_help_panel", None)), []).append(shown)
        for group, commands in groups.items():
            with formatter.section(group):
                formatter.write_dl(commands)


app = typer.Typer(
    cls=_Groups,
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Batch video understanding: videos and questions in, answers in Parquet out.",
)
for _group, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_group)(_command)
app.add_typer(bench, name="bench", rich_help_panel="Setup")


def main() -> None:
    """Entry point of the console script: an error that the user can fix becomes one message, not a traceback."""
    # Before Ray is imported: a thread that still works when a run has disconnected would otherwise make Ray connect to
    # any cluster that it finds on this machine.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        app()
    except SystemExit as ended:
        if isinstance(ended.code, int) and ended.code > SIGNALLED:
            # Everything is committed and closed. But threads of Ray and Arrow may still work, and would abort the
            # process while Python ends (exit code -6, seen after SIGTERM): leave at once.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code)
        raise
    except Exception as error:  # noqa: BLE001 - a command ends with an exit code
        code = _exit_code(error)
        if code is None:
            # A bug. Python's own traceback would show secrets and control characters of the message.
            print_text("".join(traceback.format_exception(error)).rstrip(), to_stderr=True)
            sys.exit(PROBLEM)
        print_text(f"{type(error).__name__}: {error}", "red", to_stderr=True)
        sys.exit(code)


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of an error that the user can fix; None for a bug."""
    from flashvid.errors import FatalError, PermanentError, TransientError
    from pipeline.errors import DISK_NUMBERS, OutageError

    number = getattr(error, "errno", None)
    if isinstance(error, OutageError | TransientError) or number in DISK_NUMBERS:
        return AWAY
    is_refused = isinstance(error, FatalError | PermanentError | PermissionError) or number in _NO_PLACE
    return REFUSED if is_refused else None


if __name__ == "__main__":
    main()
