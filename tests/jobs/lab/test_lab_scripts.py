"""Scripts of the lab that a user calls with an argument say so when it is missing."""

from __future__ import annotations

import runpy
import sys

import pytest

from tests.support.packages import ROOT

SCRIPTS = {"tiny_model/tiny_random.py": "folder", "tiny_model/demo_clips.py": "folder", "roofline.py": "page"}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_missing_argument_is_named(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the usage, and exit code 2."""
    path = str(ROOT / "jobs" / "lab" / script)
    monkeypatch.setattr(sys, "argv", [path])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(path, run_name="__main__")
    assert f"the following arguments are required: {SCRIPTS[script]}" in capsys.readouterr().err
