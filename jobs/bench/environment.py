"""Where a measurement was made: machine, versions, commit. Stands beside every published number."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("flashvid-pipeline", "torch", "transformers", "numpy")


def environment_columns() -> dict[str, str]:
    """Commit, versions and machine by name, for tables of figures."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return {
        "commit": _commit(),
        "versions": f"Python {platform.python_version()}, {packages}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores ({_processor()})",
    }


def describe_environment() -> str:
    """One line: commit, Python, packages, processor, cores."""
    where = environment_columns()
    return f"commit {where['commit']}, {where['versions']}; {where['machine']}"


def _commit() -> str:
    """Of the checkout this file belongs to, with a + if it was changed; "unknown" for an installed package."""
    try:
        commit, changes = _git("rev-parse", "--short=10", "HEAD"), _git("status", "--porcelain", "-uno")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit + ("+" if changes else "")


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    # Fixed arguments, no shell.
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603


def _processor() -> str:
    """The processor's name where Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")
