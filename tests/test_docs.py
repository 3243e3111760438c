"""The documentation is true: generated pages are up to date, links lead somewhere, commands and their options exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from jobs.cli import app
from jobs.job_reference import job_reference
from pipeline import tables
from tests.runs import copy_videos

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
BIN = Path(sys.executable).parent


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[str]:
    """Every `flashvid` command line that a page shows, in a block or between backticks."""
    text = page.read_text(encoding="utf-8")
    shown = (line for block in blocks(page, "(?:console)?") for line in block.splitlines())
    plain = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in (*shown, *(span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", plain))):
        if match := re.match(r"(?:\.venv/bin/)?(flashvid [a-z].*)", line.strip()):
            yield match[1]


def test_the_page_of_the_job_file_is_up_to_date() -> None:
    """`python -m jobs.job_reference > docs/job-file.md` writes it."""
    assert (ROOT / "docs" / "job-file.md").read_text(encoding="utf-8") == job_reference()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Those to files of ours."""
    links = re.findall(r"\]\(([^)#:\s]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    """Every command of ours that is shown, with every option of it."""
    root = typer.main.get_command(app)
    for line in commands(page):
        command = root
        words = shlex.split(line, comments=True)[1:]
        while isinstance(command, TyperGroup) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        assert command is not root, line
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        assert options <= known, line


def test_every_column_is_described() -> None:
    """Of answers, failures and probes, in the order that they have."""
    text = (ROOT / "docs" / "tables.md").read_text(encoding="utf-8")
    for name, schema in (("answers", tables.ANSWERS), ("failures", tables.FAILURES)):
        (row,) = re.findall(rf"^\| {name} \| (.*) \|$", text, re.MULTILINE)
        named = re.sub(r"\([^)]*\)", "", row).replace("`", "").replace(" ", "")
        assert named.split(",") == schema.names


@pytest.mark.slow
def test_the_tutorial(sample_videos: Path, tmp_path: Path) -> None:
    """Its commands, one after the other, as they stand there."""
    copy_videos(sample_videos, tmp_path / "demo-output", ["three_boxes.mp4", "short_flash.mp4"])
    for block in blocks(ROOT / "docs" / "tutorial.md", "console"):
        for line in block.splitlines():
            words = shlex.split(line)
            done = subprocess.run(
                [BIN / words[0], *words[1:]], cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert list((tmp_path / "tutorial-answers").rglob("*.parquet"))
    assert (tmp_path / "tutorial-report.html").is_file()
