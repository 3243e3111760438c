"""Limit the memory of this process. The kernel enforces the limit, even if the Python code hangs."""

import resource
from pathlib import Path


def limit_memory(limit: int) -> None:
    """Make allocations fail once this process has `limit` bytes more than now (Linux only)."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        return  # not Linux: other systems do not enforce such a limit
    used = int(statistics.read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, hard))
