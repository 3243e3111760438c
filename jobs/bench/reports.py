"""What a benchmark writes: a report, a CSV of figures and a bar chart, each with the place where it was measured."""

from __future__ import annotations

import csv
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline.printable import printable

_PACKAGES = ("flashvid-pipeline", "torch", "transformers", "numpy")
NO_PLOTS = "no plot: matplotlib is not installed (pip install 'flashvid-pipeline[bench]')"


def environment_columns() -> dict[str, str]:
    """Return commit, versions and machine by name, for tables of figures."""
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return {
        "commit": _commit(),
        "versions": f"Python {platform.python_version()}, {packages}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores ({_processor()})",
    }


def describe_environment() -> str:
    """Return one line: commit, Python, packages, processor, cores."""
    where = environment_columns()
    return f"commit {where['commit']}, {where['versions']}; {where['machine']}"


def write_report(folder: Path, name: str, text: str) -> None:
    """Write a report into a folder, which is created if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the same columns, at least one, as CSV; each row names commit, versions and machine."""
    where = environment_columns()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *where])
        writer.writeheader()
        writer.writerows({**row, **where} for row in rows)


def markdown_table(titles: str, rows: Iterable[str]) -> str:
    """Return a Markdown table; cells are separated by ` | `."""
    lines = (titles, " | ".join(["---"] * len(titles.split(" | "))), *rows)
    return "".join(f"| {line} |\n" for line in lines)


def publish(
    folder: Path | None,
    name: str,
    text: str,
    rows: Sequence[Mapping[str, object]],
    bars: Mapping[str, float],
    axis: str,
) -> None:
    """Print a report, and write `NAME.md`, `NAME.csv` and `NAME.png` into a folder.

    Args:
        folder: Created if it is missing; None writes nothing.
        name: Of the three files.
        text: The report.
        rows: Of the CSV.
        bars: Of the chart; NaN draws no bar.
        axis: Title of the chart's axis.
    """
    print(printable(text, lines=True))
    if folder is not None:
        write_report(folder, name, text)
        write_rows(folder / f"{name}.csv", rows)
        plot_bars(folder / f"{name}.png", bars, axis)


# Writes into a folder.
Benchmark = Callable[[Path], object]


def bench_all(output: Path, benchmarks: Mapping[str, Benchmark], left_out: str = "") -> dict[str, object]:
    """Run all benchmarks, and write how long each took to `all.md`.

    Args:
        output: A folder, created if it is missing.
        benchmarks: By name.
        left_out: What is not run here and why, as a sentence; empty for nothing.

    Returns:
        What each benchmark returned, by name.
    """
    found = {}
    lines = [f"# All benchmarks\n\n{describe_environment()}\n\n| benchmark | minutes |\n|---|---|\n"]
    started = time.monotonic()
    for name, run in benchmarks.items():
        begun = time.monotonic()
        found[name] = run(output / name)
        lines.append(f"| [{name}]({name}/{name}.md) | {(time.monotonic() - begun) / 60:.1f} |\n")
        write_report(output, "all", "".join(lines))
    lines.append(f"| all | {(time.monotonic() - started) / 60:.1f} |\n")
    lines += [f"\n{left_out}\n"] if left_out else []
    write_report(output, "all", "".join(lines))
    print("".join(lines))
    return found


def new_figure(width: float, height: float) -> Any | None:  # noqa: ANN401 - matplotlib's, which is optional
    """Return a figure of that size in inches, or None without matplotlib, which is then reported."""
    if find_spec("matplotlib") is None:
        print(NO_PLOTS)
        return None
    # The figure class itself, not pyplot: no global state, no display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def plot_bars(path: Path, values: Mapping[str, float], title: str) -> None:
    """Draw a bar for each name; NaN draws none. Without matplotlib, write nothing."""
    if (figure := new_figure(8, 1 + 0.3 * len(values))) is None:
        return
    axes = figure.subplots()
    axes.bar_label(axes.barh([*values], [*values.values()]), fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(title)
    axes.grid(visible=True, axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


def _commit() -> str:
    """Return the commit of this checkout, with a + if files were changed; "unknown" for an installed package."""
    describe = ["describe", "--always", "--exclude=*", "--abbrev=10", "--dirty=+"]
    command = ["git", "-C", str(Path(__file__).parent), *describe]
    try:
        # Fixed arguments, no shell.
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    """Return the processor's name, as Linux reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
