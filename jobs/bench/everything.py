"""`flashvid bench all`: several benchmarks, each into its own folder, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from jobs.bench.reports import describe_environment, write_report

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
