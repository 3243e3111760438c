"""What every benchmark leaves behind: figures that say where they are from, and pictures where they can be drawn."""

from __future__ import annotations

import csv
import os
import platform
from functools import partial
from pathlib import Path

import pytest

from jobs.bench import everything, reports, video_decoding
from jobs.bench.environment import describe_environment, environment_columns
from jobs.bench.everything import bench_all
from jobs.bench.plots import plot_bars
from jobs.bench.reports import NO_PLOTS, can_plot, write_report, write_rows
from jobs.lab import answers


def test_rows_say_where_they_are_from(tmp_path: Path) -> None:
    """Commit, versions and machine in each, behind its own columns; the same that stands in the reports."""
    write_rows(tmp_path / "new" / "x.csv", [{"a": 1, "b": "one, two"}, {"a": 2, "b": None}])
    with (tmp_path / "new" / "x.csv").open() as file:
        rows = [*csv.DictReader(file)]
    where = environment_columns()
    assert rows == [{"a": "1", "b": "one, two", **where}, {"a": "2", "b": "", **where}]
    assert platform.python_version() in where["versions"]
    assert f"{os.cpu_count()} cores" in where["machine"]
    assert all(value in describe_environment() for value in where.values())


def test_a_report_makes_its_folder(tmp_path: Path) -> None:
    write_report(tmp_path / "a" / "b", "x", "text\n")
    assert (tmp_path / "a" / "b" / "x.md").read_text() == "text\n"


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said, in one line; with it, nothing is."""
    assert can_plot()
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(reports, "find_spec", lambda _: None)
    assert not can_plot()
    assert capsys.readouterr().out == f"{NO_PLOTS}\n"


def test_bars(tmp_path: Path) -> None:
    plot_bars(tmp_path / "x.png", {"one": 1.0, "two": 2.5}, "of something")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each in its folder, one after the other; what is beyond its limit is handed on."""

    def benchmark(folder: Path, quick: bool) -> list[str]:
        write_report(folder, folder.name, f"quick: {quick}\n")
        return [f"{folder.name} is slow"] if folder.name == "b" else []

    assert bench_all(tmp_path, quick=True, benchmarks={"a": benchmark, "b": benchmark}) == ["b is slow"]
    assert [(tmp_path / name / f"{name}.md").read_text() for name in "ab"] == ["quick: True\n"] * 2
    text = (tmp_path / "all.md").read_text()
    assert [line.split(" | ")[0] for line in text.splitlines()[-3:]] == ["| [a](a/a.md)", "| [b](b/b.md)", "| all"]
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("quick", [False, True])
def test_what_all_of_them_are(quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is given its folder and how much to measure; what is beyond its limit comes from compression."""
    given: dict[str, tuple[object, ...]] = {}

    def note(name: str, *arguments: object, **others: object) -> list[str]:
        given[name] = (*arguments, *others.values())
        return [f"{name} is slow"]

    for name in ("answers", "compress", "decode", "pipeline", "cache"):
        monkeypatch.setattr(everything, f"bench_{name}", partial(note, name))
    monkeypatch.setattr(everything, "write_clip", lambda *_: None)
    assert bench_all(tmp_path, quick=quick) == ["compress is slow"]
    assert given == {
        "answers": (tmp_path / "answers", answers.QUICK if quick else answers.BRIEF),
        "compress": (tmp_path / "compress", quick),
        "decode": (
            tmp_path / "decode" / "clip.mp4",
            tmp_path / "decode",
            video_decoding.QUICK if quick else video_decoding.PATIENCE,
        ),
        "pipeline": (tmp_path / "pipeline", quick, None if quick else 32, 1),
        "cache": (tmp_path / "cache", quick),
    }
