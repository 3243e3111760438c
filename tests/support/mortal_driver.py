"""`flashvid run` in a process that is killed as soon as so many commits of answers are on storage.

    python -m tests.support.mortal_driver COMMITS JOB_FILE

From inside, so that the moment depends on no clock: the objects exist, and nobody has been told.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from jobs.cli.main import app
from pipeline.store.ledger import Ledger

_append = Ledger.append_answers


def main(commits: int, job_file: str) -> None:
    """Run a job until it has written so many commits."""
    left = commits

    def append_and_die(ledger: Ledger, rows: Sequence[Any], *arguments: Any, **named: Any) -> None:
        nonlocal left
        _append(ledger, rows, *arguments, **named)
        left -= bool(rows)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    Ledger.append_answers = append_and_die  # type: ignore[method-assign]
    app(["run", job_file])


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
