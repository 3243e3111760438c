"""The documentation is true: generated pages are up to date, links lead somewhere, commands and their options exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from jobs.cli.main import app
from jobs.lab.job_reference import job_reference
from pipeline.store import schemas
from tests.support.pages import PAGES, ROOT, blocks, spans


def commands(page: Path) -> Iterator[str]:
    """Every `flashvid` command line that a page shows, in a block or between backticks."""
    shown = (line for block in blocks(page, "", "console") for line in block.splitlines())
    for line in (*shown, *spans(page)):
        if match := re.match(r"(?:\.venv/bin/)?(flashvid [a-z].*)", line.strip()):
            yield match[1]


def test_the_page_of_the_job_file_is_up_to_date() -> None:
    """`python -m jobs.lab.job_reference > docs/job-file.md` writes it."""
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
    for name, schema in (("answers", schemas.ANSWERS), ("failures", schemas.FAILURES)):
        (row,) = re.findall(rf"^\| {name} \| (.*) \|$", text, re.MULTILINE)
        named = re.sub(r"\([^)]*\)", "", row).replace("`", "").replace(" ", "")
        assert named.split(",") == schema.names
