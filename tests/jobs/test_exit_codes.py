"""README's exit codes, for every kind of end: the code, one message, and a traceback only for a bug.

tests/pipeline/run/test_interrupt.py has those of signals, test_bad_commands.py those of clusters and buckets.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from pathlib import Path

import pytest

from flashvid.errors import FatalError, FlashVidError, PermanentError, TransientError
from jobs.cli import main as cli
from pipeline.errors import DamagedObjectError, OutageError
from tests.jobs.test_bad_commands import make_output
from tests.pipeline.test_errors import CLASSES
from tests.support.full_disk import needs_mounts, on_small_disk

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def ended(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The exit code of a command that runs in this process."""
    monkeypatch.setattr(sys, "argv", ["flashvid", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def expected(error_class: type[FlashVidError]) -> int:
    """By the branch of the tree: what may pass is 3, what never will is 2."""
    return 3 if issubclass(error_class, OutageError | TransientError) else 2


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda cls: cls.__name__)
def test_each_error_of_ours(
    error_class: type[FlashVidError], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line with its class and message, on stderr."""
    if not issubclass(error_class, TransientError | PermanentError | FatalError):
        return  # the base class is never raised
    error = DamagedObjectError("why", "out", "runs/1") if error_class is DamagedObjectError else error_class("why")

    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    assert ended(monkeypatch, "status") == expected(error_class)
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"{error_class.__name__}: {error}\n")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        *((number, 3) for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)),
        *((number, 2) for number in (errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)),
    ],
)
def test_each_error_of_the_system(
    number: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of any file that a command writes: a report, an export, a log."""

    def fail() -> None:
        raise OSError(number, os.strerror(number), "/some/file")

    monkeypatch.setattr(cli, "app", fail)
    assert ended(monkeypatch, "status") == code
    assert re.fullmatch(r"\w+: \[Errno \d+\] .*'/some/file'\n", capsys.readouterr().err)


def test_a_bug_shows_its_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is the only end with one."""

    def fail() -> None:
        raise KeyError("never seen")

    monkeypatch.setattr(cli, "app", fail)
    assert ended(monkeypatch, "status") == 1
    assert capsys.readouterr().err.startswith("Traceback (most recent call last)")


def test_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A finding is 1; usage, a missing job file and a foreign folder are 2; what works is 0."""
    output, job_file = make_output(tmp_path), tmp_path / "job.yaml"
    job_file.write_text("videos: v\nquestions: [What?]\noutput: o\nmodel: {name: tiny, revisoin: main}\n")
    # The fingerprint of this hand-made record is not that of its settings.
    ends = {
        ("verify", output): 1,
        ("status", output): 0,
        ("status", tmp_path / "nowhere"): 2,
        ("run", tmp_path / "nowhere.yaml"): 2,
        ("validate", job_file): 2,
        ("status",): 2,
        ("status", output, "--wrong"): 2,
        ("wrong",): 2,
        ("--help",): 0,
    }
    for arguments, code in ends.items():
        assert ended(monkeypatch, *arguments) == code, arguments
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
@needs_mounts
@pytest.mark.parametrize("read_only", [False, True])
def test_a_report_on_a_disk_without_room(tmp_path: Path, *, read_only: bool) -> None:
    """Not only runs write files."""
    output, disk = make_output(tmp_path), tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "jobs.cli.main", "export", str(output), str(disk / "to")]
    done = on_small_disk(disk, *command, size="4k", read_only=read_only)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr


def test_the_readme_names_them_all() -> None:
    """And only these."""
    (line,) = re.findall(r"^Exit codes: .*?\n\n", README, re.DOTALL | re.MULTILINE)
    assert sorted(map(int, re.findall(r"(?<![\w-])(\d+)\b (?!s\b)[A-Za-z]", line))) == [0, 1, 2, 3, 130, 143]
