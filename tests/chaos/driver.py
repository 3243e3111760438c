"""`flashvid run` in a process that can be told to stop in the middle of a commit.

    python -m tests.chaos.driver JOB_FILE [--host NAME] [--stop before|after] [--commits N] [--still-clock]

Its leases live for seconds instead of a minute. `--host` makes it a driver on another machine, for which the process of
a holder can't be seen. `--stop` sends SIGSTOP to the process itself, once, in its N-th write of answers: right before
the last look at the lease, or right after it. With `--still-clock`, the monotonic clock does not run while the process
is stopped, as in a suspended virtual machine.
"""

import argparse
import os
import signal
import threading
import time

from jobs.cli.main import main as flashvid
from pipeline.store import lease, storage

LEASE_SECONDS = 12.0
WRITE_SECONDS = 5.0
_TICK_S = 0.01


def run(job_file: str, *, host: str | None, stop: str | None, commits: int, still_clock: bool) -> None:
    """Run a job as the arguments say; the process ends with the exit code of `flashvid run`."""
    lease.LEASE_SECONDS = LEASE_SECONDS
    lease.WRITE_SECONDS = storage.WRITE_SECONDS = WRITE_SECONDS
    if host is not None:
        lease._host = lambda: f"{host}/boot/namespace"
    if still_clock:
        _let_the_clock_stand_still()
    if stop is not None:
        _stop_in_a_write(stop, commits)
    import sys

    sys.argv = ["flashvid", "run", job_file]
    flashvid()


def _stop_in_a_write(moment: str, commits: int) -> None:
    check, left = lease.Lease.check_deadline, commits

    def check_and_stop(held: lease.Lease) -> None:
        nonlocal left
        left -= 1
        if left == 0 and moment == "before":
            os.kill(os.getpid(), signal.SIGSTOP)
        check(held)
        if left == 0 and moment == "after":
            os.kill(os.getpid(), signal.SIGSTOP)

    lease.Lease.check_deadline = check_and_stop  # type: ignore[method-assign]


def _let_the_clock_stand_still() -> None:
    """Count the seconds in a thread, which is stopped with the process."""
    begun, counted = time.monotonic(), 0.0

    def count() -> None:
        nonlocal counted
        while True:
            time.sleep(_TICK_S)
            counted += _TICK_S

    threading.Thread(target=count, daemon=True).start()
    time.monotonic = lambda: begun + counted


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job_file")
    parser.add_argument("--host")
    parser.add_argument("--stop", choices=["before", "after"])
    parser.add_argument("--commits", type=int, default=1)
    parser.add_argument("--still-clock", action="store_true")
    asked = parser.parse_args()
    run(asked.job_file, host=asked.host, stop=asked.stop, commits=asked.commits, still_clock=asked.still_clock)


if __name__ == "__main__":
    main()
