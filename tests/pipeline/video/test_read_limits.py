"""The limit of memory, in a process of its own."""

import subprocess
import sys

import pytest

_SWELL = """
from pipeline.video.limits import limit_memory
limit_memory(1 << 27)
try:
    bytearray(1 << 30)
except MemoryError:
    print("refused")
bytearray(1 << 26)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited on Linux only")
def test_what_swells_is_refused_its_memory() -> None:
    found = subprocess.run([sys.executable, "-c", _SWELL], capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode, found.stdout) == (0, "refused\n"), found.stderr
