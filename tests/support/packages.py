"""Packages that declare entry points, laid out in a folder, and Python processes that find them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def install_package(folder: Path, package: str, group: str, entries: dict[str, str], code: str) -> None:
    """Lay out a package of one module as pip would, with its entry points.

    Args:
        folder: Where to; `run_python` puts it on the path.
        package: Name of the package and of its module.
        group: Group of the entry points.
        entries: ``module:object`` by the name of the entry point.
        code: Source of the module.
    """
    (folder / f"{package}.py").write_text(code, encoding="utf-8")
    information = folder / f"{package}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in entries.items())]
    (information / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def run_python(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process that finds this repository and the packages of a folder."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120, env=environment
    )
