"""CPU time of a command and of all processes that come from it, by what they are; from Linux' /proc."""

from __future__ import annotations

import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["driver", "workers", "daemons"]

# A process that ends between two looks takes at most so much with it that nobody saw.
_LOOK_S = 0.2
# By command line, or the title that a process gives itself.
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


@dataclass(frozen=True)
class CommandCost:
    """What a command took.

    Attributes:
        cpu_seconds: By kind: the command's own process, Ray's daemons, and everything else (actors, and what they
            start).
        stdout: What it printed.
    """

    cpu_seconds: Mapping[Kind, float]
    stdout: str


def run_measured(command: Sequence[str], environment: Mapping[str, str]) -> CommandCost:
    """Run a command to its end and add up its processes, those that left their parents included.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    seconds: dict[int, tuple[Kind, float]] = {}
    process = subprocess.Popen(command, env=dict(environment), stdout=subprocess.PIPE, text=True)  # noqa: S603 - ours
    with process:
        while process.poll() is None:
            look(process.pid, seconds)
            time.sleep(_LOOK_S)
        assert process.stdout is not None  # noqa: S101 - for the type checker
        stdout = process.stdout.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(command), stdout)
    total: dict[Kind, float] = defaultdict(float)
    for kind, spent in seconds.values():
        total[kind] += spent
    return CommandCost(dict(total), stdout)


def look(root: int, seconds: dict[int, tuple[Kind, float]]) -> None:
    """Note the CPU time of every process that comes from `root`, or from one that did."""
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    found = {pid: stat for pid in pids if (stat := _stat(pid))}
    known = {root, *seconds}
    grown = True
    while grown:
        new = {pid for pid, (parent, _) in found.items() if parent in known and pid not in known}
        known |= new
        grown = bool(new)
    for pid in known & found.keys():
        seconds[pid] = ("driver" if pid == root else _kind(pid), found[pid][1])


def _stat(pid: int) -> tuple[int, float] | None:
    """Parent and CPU seconds of a process; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may hold blanks.
    fields = text.rpartition(")")[2].split()
    return int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _kind(pid: int) -> Kind:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "workers"
    return "daemons" if any(name in command for name in _DAEMONS) else "workers"
