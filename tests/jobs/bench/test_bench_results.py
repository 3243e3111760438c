"""What every benchmark writes, and what `bench all` runs with jobs/lab and without it."""

from __future__ import annotations

import csv
import os
import platform
import re
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from flashvid.errors import ConfigurationError
from jobs.bench.reports import bench_all, describe_environment, environment_columns, write_report, write_rows
from jobs.cli import bench_commands
from jobs.cli.main import app


@pytest.fixture
def without_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an installed wheel."""
    monkeypatch.setattr(bench_commands, "find_spec", lambda _: None)


def test_rows_say_where_they_are_from(tmp_path: Path) -> None:
    """Commit, versions and machine follow each row's own columns; reports show the same."""
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


def test_all_of_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each writes into its folder, one after the other; what each returned is returned by name."""

    def benchmark(folder: Path) -> list[str]:
        write_report(folder, folder.name, "text\n")
        return [f"{folder.name} is slow"] if folder.name == "b" else []

    assert bench_all(tmp_path, {"a": benchmark, "b": benchmark}, "Left out: c.") == {"a": [], "b": ["b is slow"]}
    assert [(tmp_path / name / f"{name}.md").read_text() for name in "ab"] == ["text\n"] * 2
    text = (tmp_path / "all.md").read_text()
    lines = [line.split(" | ")[0] for line in text.splitlines()[-5:]]
    assert lines == ["| [a](a/a.md)", "| [b](b/b.md)", "| all", "", "Left out: c."]
    assert text in capsys.readouterr().out


def test_what_all_of_them_are() -> None:
    """In a checkout."""
    assert [*bench_commands.benchmarks(quick=True)] == ["compress", "cache", "pipeline", "answers", "decode"]


@pytest.mark.usefixtures("without_lab")
def test_what_an_installed_package_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`bench all` runs what there is, says what it left out, and fails if compression is over a limit."""
    assert [*bench_commands.benchmarks(quick=True)] == ["compress", "cache", "pipeline"]
    monkeypatch.setattr(bench_commands, "benchmarks", lambda quick: {"compress": lambda _: [f"slow {quick}"]})
    done = CliRunner().invoke(app, ["bench", "all", "--output", str(tmp_path)])
    assert done.exit_code == 1
    assert "Left out: quality, answers and planning" in done.stdout


@pytest.mark.parametrize("words", [["quality", "--output", "x"], ["answers"], ["planning"]], ids=lambda words: words[0])
def test_what_an_installed_package_has_not(words: list[str]) -> None:
    """One sentence that names the repository; `main` gives exit code 2."""
    bench = typer.Typer()
    bench_commands.add_lab_commands(bench, None)
    done = CliRunner().invoke(bench, words, prog_name="flashvid bench")
    assert isinstance(done.exception, ConfigurationError)
    assert f"flashvid bench {words[0]} is not in the installed package" in str(done.exception)
    assert "repository" in str(done.exception)
    assert "\n" not in str(done.exception)


def test_nothing_that_ships_needs_the_lab() -> None:
    """Only bench_commands imports jobs.lab, by name, after it has looked whether the lab is there."""
    root = Path(__file__).parents[3] / "jobs"
    shipped = [path for path in root.rglob("*.py") if root / "lab" not in path.parents]
    texts = {path.name: path.read_text() for path in shipped}
    assert [name for name, text in texts.items() if re.search(r"^\s*(from|import) jobs\.lab", text, re.MULTILINE)] == []
    assert [name for name, text in texts.items() if 'import_module(f"jobs.lab' in text] == ["bench_commands.py"]
