"""CPU time of a command and of all its descendants, by kind; from Linux' /proc."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["driver", "workers", "daemons"]
KINDS: tuple[Kind, ...] = ("driver", "workers", "daemons")

# The most CPU time of a process that is missed if it ends between two looks.
_LOOK_S = 0.2
# Matched in the command line, or the title that a process gives itself.
_DAEMONS = (
    "raylet/raylet",
    "gcs_server",
    "ray/dashboard",
    "log_monitor",
    "runtime_env/agent",
    "/autoscaler/",
    "ray::DashboardAgent",
    "ray::RuntimeEnvAgent",
)


class ProcessTree:
    """Descendants of known processes, including those that left their parents, and their CPU time so far."""

    def __init__(self, roots: Mapping[int, Kind] | None = None) -> None:
        """Start with these processes, by id."""
        self._roots: dict[int, Kind] = dict(roots or {})
        # By process id and start time, because ids are reused.
        self._seconds: dict[tuple[int, int], tuple[Kind, float]] = {}

    def add(self, pid: int, kind: Kind) -> None:
        """Add another process to start with."""
        self._roots[pid] = kind

    def look(self) -> None:
        """Record the CPU time of every living process."""
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        found = {pid: stat for pid in pids if (stat := _stat(pid))}
        known = {*self._roots, *(pid for pid, start in self._seconds if pid in found and found[pid].start == start)}
        grown = True
        while grown:
            new = {pid for pid, stat in found.items() if stat.parent in known and pid not in known}
            known |= new
            grown = bool(new)
        for pid in known & found.keys():
            stat = found[pid]
            self._seconds[pid, stat.start] = (self._roots.get(pid) or _kind(pid), stat.seconds)

    @property
    def cpu_seconds(self) -> dict[Kind, float]:
        """CPU time of all processes up to the last look, by kind."""
        total: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        for kind, seconds in self._seconds.values():
            total[kind] += seconds
        return total


def run_measured(
    command: Sequence[str], environment: Mapping[str, str], tree: ProcessTree | None = None
) -> dict[Kind, float]:
    """Run a command; return CPU seconds by kind: its own process, Ray's daemons, and everything else (actors).

    Args:
        command: What to run.
        environment: Its variables.
        tree: Other processes that work for it; None if it starts all of them.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    tree = tree or ProcessTree()
    tree.look()
    before = tree.cpu_seconds
    with subprocess.Popen(command, env=dict(environment), stdout=subprocess.DEVNULL) as process:  # noqa: S603 - ours
        tree.add(process.pid, "driver")
        while process.poll() is None:
            tree.look()
            time.sleep(_LOOK_S)
    tree.look()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command))
    return {kind: seconds - before[kind] for kind, seconds in tree.cpu_seconds.items()}


@dataclass(frozen=True)
class _Stat:
    """A process.

    Attributes:
        parent: Its id.
        seconds: CPU time.
        start: Start time, in clock ticks since the machine booted.
    """

    parent: int
    seconds: float
    start: int


def _stat(pid: int) -> _Stat | None:
    """Read a process; return None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may hold blanks.
    fields = text.rpartition(")")[2].split()
    return _Stat(int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(fields[19]))


def _kind(pid: int) -> Kind:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "workers"
    return "daemons" if any(name in command for name in _DAEMONS) else "workers"
