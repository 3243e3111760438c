"""The command line as a person meets it: in a process of its own, with exit codes and one message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import main
from pipeline.errors import StorageUnavailableError

FLASHVID = Path(sys.executable).parent / "flashvid"


def _flashvid(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FLASHVID, *map(str, arguments)], capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("job", "part", "in_a_process"),
    [
        ("videos: v\nquestions: [What]\noutput: o\nmodel: {name: tiny-random}\nretention_ratoi: 0.1\n", "line 5", True),
        ("videos: v\nquestions: [What]\noutput: o\nmodel: {name: tiny-random}\n", "no such file or folder", False),
        ("videos: .\nquestions: [What]\noutput: o\nmodel: {name: nowhere}\n", "no such model directory", False),
    ],
    ids=["unknown key", "no videos", "no model"],
)
def test_a_refused_job_is_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    job: str,
    part: str,
    in_a_process: bool,
) -> None:
    """Exit code 2, what is wrong on stderr, no traceback, nothing written."""
    # Paths longer than a line: no message may be broken in two by them.
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    job_file = folder / "job.yaml"
    job_file.write_text(job)
    if in_a_process:
        done = _flashvid("run", job_file)
        code, said = done.returncode, done.stderr
    else:
        # The same from here on: what the process of the first one is for is what `main` does before and after.
        monkeypatch.setattr(sys, "argv", ["flashvid", "run", str(job_file)])
        with pytest.raises(SystemExit) as ended:
            main.main()
        code, said = ended.value.code, capsys.readouterr().err
    assert code == 2
    assert part in said
    assert "Traceback" not in said
    assert not (folder / "o").exists()


def test_help_has_an_example() -> None:
    """And is there without loading torch or Ray."""
    done = _flashvid("run", "--help")
    assert done.returncode == 0
    assert "Example" in done.stdout


def test_storage_that_is_away_is_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 3: the same command may work later."""

    def away() -> None:
        raise StorageUnavailableError("no answer within 60 s", "s3://bucket/output")

    monkeypatch.setattr(main, "app", away)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 3
    assert capsys.readouterr().err == "StorageUnavailableError: s3://bucket/output: no answer within 60 s\n"
