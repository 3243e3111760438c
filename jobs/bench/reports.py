"""What a benchmark writes: a report and a CSV of figures, each with the machine on which they were measured."""

import csv
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from pipeline.printable import printable

_PACKAGES = ("flashvid-pipeline", "torch", "transformers", "numpy")


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


def publish(folder: Path | None, name: str, text: str, rows: Sequence[Mapping[str, object]]) -> None:
    """Print a report, and write it to `NAME.md` and its figures to `NAME.csv` in a folder.

    Args:
        folder: Created if it is missing; None writes nothing.
        name: Name of the two files.
        text: The report.
        rows: Rows of the CSV.
    """
    print(printable(text, lines=True))
    if folder is not None:
        write_report(folder, name, text)
        write_rows(folder / f"{name}.csv", rows)


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
