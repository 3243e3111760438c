"""What a benchmark leaves behind: a report, tables of figures, a picture."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from jobs.bench.environment import environment_columns

NO_PLOTS = "no plot: matplotlib is not installed (pip install 'flashvid-pipeline[bench]')"


def write_report(folder: Path, name: str, text: str) -> None:
    """Write a report into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows with the same columns, at least one, as CSV; commit, versions and machine stand in each."""
    where = environment_columns()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], *where])
        writer.writeheader()
        writer.writerows({**row, **where} for row in rows)


def can_plot() -> bool:
    """Whether pictures can be drawn; if not, that is said: a table without its picture is worth having."""
    if find_spec("matplotlib") is not None:
        return True
    print(NO_PLOTS)
    return False
