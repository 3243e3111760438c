"""Limit time and memory while a file is read. The kernel enforces the limits, even if the Python code hangs."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited(*, time_limit_s: float, memory_limit: int) -> Iterator[None]:
    """Kill this process if the `with` block takes too long, and make allocations fail beyond a limit.

    Args:
        time_limit_s: Time limit in seconds.
        memory_limit: Bytes that the process may allocate beyond its present memory (Linux only).
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_memory(memory_limit)
    # The signal has no handler, so it ends the process, whatever its threads are doing.
    signal.setitimer(signal.ITIMER_REAL, time_limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def limit_memory(limit: int) -> None:
    """Make allocations fail once this process has `limit` bytes more than now (Linux only)."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        return  # not Linux: other systems do not enforce such a limit
    used = int(statistics.read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, hard))
