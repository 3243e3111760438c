"""Limit time and memory while a file is read. The kernel enforces the limits, even if the Python code hangs."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.resources_config import DecodePoolConfig


@contextmanager
def limited(limits: DecodePoolConfig) -> Iterator[None]:
    """Kill this process if the `with` block takes too long, and make allocations fail beyond a limit (Linux only).

    Args:
        limits: The time, and the memory that the process may allocate beyond its present memory.
    """
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit_memory(int(limits.memory_limit_gb * (1 << 30)))
    # The signal has no handler, so it ends the process, whatever its threads are doing.
    signal.setitimer(signal.ITIMER_REAL, limits.time_limit_s)
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
