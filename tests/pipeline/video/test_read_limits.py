"""The limits under which a file's packets are read, in a process of their own that may die of them."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_GIBIBYTE = 1 << 30
_HANG = """
from pipeline.resources_config import DecodePoolConfig
from pipeline.video.limits import limited
with limited(DecodePoolConfig(time_limit_s=0.2, memory_limit_gb=1)):
    while True:
        pass
"""
_SWELL = """
import resource
from pipeline.resources_config import DecodePoolConfig
from pipeline.video.limits import limited
before = resource.getrlimit(resource.RLIMIT_DATA)
with limited(DecodePoolConfig(time_limit_s=60, memory_limit_gb=1 / 8)):
    try:
        bytearray({limit})
    except MemoryError:
        print("refused")
assert resource.getrlimit(resource.RLIMIT_DATA) == before
bytearray({limit})
print("free again")
"""


def _run(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script.format(limit=_GIBIBYTE)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_what_hangs_is_killed() -> None:
    assert _run(_HANG).returncode == -signal.SIGALRM


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_what_swells_is_refused_its_memory_and_only_then() -> None:
    found = _run(_SWELL)
    assert (found.returncode, found.stdout.split("\n")) == (0, ["refused", "free again", ""]), found.stderr
