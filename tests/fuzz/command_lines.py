"""Command lines: every command with options and arguments that it has, or has not."""

from __future__ import annotations

import contextlib
import io
import sys
from unittest import mock

from hypothesis import strategies as st

from jobs.cli import main as cli
from tests.fuzz.kind import Kind, folder

# Those that would start Ray, load a model, reach a network or measure: `run`, `demo`, `bench`, `submit`, `doctor`, ...
_COMMANDS = ("validate", "schema", "init", "status", "evaluate", "report", "export", "verify", "retry", "forget", "gc")
_OPTIONS = (
    "--json", "--fingerprint", "--to", "--video-id", "--kind", "--type", "--stage", "--storage-option", "--set",
    "--yes", "--repair", "--used-by", "--gone", "--by", "--job", "--help", "--force", "--limit", "-x", "--",
)  # fmt: skip
# Relative paths stay in the folder of the example.
_WORDS = st.one_of(
    st.sampled_from([*_OPTIONS, "output", "job.yaml", ".", "", "nowhere/x", "a=b", "a=[1", "permanent", "1", "-1"]),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=6),
)
_LINES = st.tuples(st.sampled_from(_COMMANDS), st.lists(_WORDS, max_size=4)).map(lambda line: [line[0], *line[1]])


def check(words: list[str]) -> None:
    """An exit code that README names, and no traceback."""
    out, err = io.StringIO(), io.StringIO()
    with (
        folder() as place,
        contextlib.chdir(place),
        mock.patch.object(sys, "argv", ["flashvid", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        else:
            code = 0
    assert code in (0, 1, 2, 3), f"exit code {code}"
    assert "Traceback" not in err.getvalue(), err.getvalue()


COMMAND_LINES = Kind(
    _LINES,
    check,
    seeds=(
        ["status", ""],
        ["export", "a", "a"],
        ["gc", "a", "--used-by", ""],
        ["validate", "job.yaml", "--set", "a=[1"],
        ["forget", "output", "--video-id", "\x1b[31m"],
        ["report", ".", "--to", "."],
        ["init", "."],
    ),
)
