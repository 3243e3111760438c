"""Limits that the kernel keeps to while a file is read: no code of ours need get its turn to end what hangs."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def limited(*, time_limit_s: float, memory_limit: int) -> Iterator[None]:
    """Kill this process if what is done inside takes too long; let its allocations fail beyond a limit.

    Args:
        time_limit_s: Seconds.
        memory_limit: Bytes, beyond what the process has already (Linux only).
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_memory(memory_limit)
    # Nobody handles this signal, which ends the process then, whatever its threads are in.
    signal.setitimer(signal.ITIMER_REAL, time_limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_DATA, before)


def limit_memory(limit: int) -> None:
    """Let allocations fail beyond what this process has already and `limit` bytes more."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        return  # not Linux: nothing like it is enforced there
    used = int(statistics.read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, hard))
