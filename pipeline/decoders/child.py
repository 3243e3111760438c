"""The process that decodes: asked through a pipe, limited in memory and time, and free to die.

    python -m pipeline.decoders.child FILE_DESCRIPTOR MEMORY_LIMIT_BYTES

It imports neither torch nor Ray, and so starts in well under a second. Each request is a function that gives
`FrameBlock`s, its arguments, and the seconds it may take; each reply is the header of a block followed by its bytes,
then None, or an exception in its place.
"""

from __future__ import annotations

import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import pipeline.decoding  # noqa: F401 - loaded before the first request, and before memory is counted
from flashvid.errors import FlashVidError
from pipeline.errors import DecodeMemoryError

# The parent counts the seconds. This clock only ends a process that hangs after its parent has died.
_GRACE_S = 30.0


def main() -> None:
    """Serve until the other end of the pipe is closed."""
    descriptor, memory_limit = map(int, sys.argv[1:])
    _limit_memory(memory_limit)
    with Connection(descriptor) as parent:
        parent.send("ready")
        try:
            while True:
                _serve(parent)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # nobody asks any more


def _serve(parent: Connection) -> None:
    decode, arguments, time_limit_s = parent.recv()
    try:
        signal.setitimer(signal.ITIMER_REAL, time_limit_s + _GRACE_S)
        for block in decode(*arguments):
            parent.send((block.num_frames, block.frame_timestamps, block.frames.shape))
            parent.send_bytes(np.ascontiguousarray(block.frames).data.cast("B"))
            signal.setitimer(signal.ITIMER_REAL, time_limit_s + _GRACE_S)
        parent.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except MemoryError:
        parent.send(DecodeMemoryError("decoding this file takes more memory than resources.decode.memory_limit_gb"))
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        parent.send(_portable(error))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _portable(error: Exception) -> Exception:
    """An exception that survives the pipe, with its traceback as a note: our own, or a description of another's."""
    kept = error if isinstance(error, FlashVidError) else RuntimeError(f"{type(error).__name__}: {error}")
    kept.add_note("in the decode process:\n" + "".join(traceback.format_exception(error)))
    return kept


def _limit_memory(limit: int) -> None:
    """Let allocations fail beyond what this process has already and `limit` bytes more."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        return  # not Linux: nothing like it is enforced there
    used = int(statistics.read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (used + limit, hard))


if __name__ == "__main__":
    main()
