"""The process that decodes: asked through a pipe, limited in memory and time, and free to die.

    python -m pipeline.video.child PIPE SHARED_MEMORY MEMORY_LIMIT_BYTES     (two file descriptors and a number)

It imports neither torch, Ray, pyarrow nor fsspec, and so starts in a fraction of a second. Each request is a function
that gives `FrameBlock`s, its arguments, and the seconds it may take. Then, each time it is asked, it replies with the
header of the next block, whose frames are in the shared memory until it is asked again; at the end with None, or with
an exception. While the parent works on a block, the next one is decoded.
"""

from __future__ import annotations

import math
import signal
import sys
import traceback
from collections.abc import Iterator
from mmap import mmap
from multiprocessing.connection import Connection

import numpy as np
from numpy.typing import NDArray

from flashvid.errors import FlashVidError
from pipeline.errors import DecodeMemoryError
from pipeline.video.frame_blocks import FrameBlock  # and with it all decoders, before memory is counted
from pipeline.video.limits import limit_memory

# The parent counts the seconds. This clock only ends a process that hangs after its parent has died.
_GRACE_S = 30.0


def main() -> None:
    """Serve until the other end of the pipe is closed."""
    pipe, memory, memory_limit = map(int, sys.argv[1:])
    shared = mmap(memory, 0)
    limit_memory(memory_limit)
    with Connection(pipe) as parent:
        parent.send("ready")
        try:
            while True:
                _serve(parent, shared)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # nobody asks any more


def _serve(parent: Connection, shared: mmap) -> None:
    decode, arguments, time_limit_s = parent.recv()
    blocks = decode(*arguments)
    while True:
        signal.setitimer(signal.ITIMER_REAL, time_limit_s + _GRACE_S)
        reply = _next(blocks)
        signal.setitimer(signal.ITIMER_REAL, 0)
        parent.recv()
        if not isinstance(reply, FrameBlock):
            parent.send(reply)
            return
        frames_in(shared, reply.frames.shape)[...] = reply.frames
        parent.send((reply.num_frames, reply.frame_timestamps, reply.frames.shape))


def frames_in(shared: mmap, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The frames uint8 `[f, H, W, 3]` at the beginning of the shared memory."""
    return np.frombuffer(shared, dtype=np.uint8, count=math.prod(shape)).reshape(shape)


def _next(blocks: Iterator[FrameBlock]) -> FrameBlock | Exception | None:
    try:
        return next(blocks, None)
    except MemoryError:
        return DecodeMemoryError("decoding this file takes more memory than resources.decode.memory_limit_gb")
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        return _portable(error)


def _portable(error: Exception) -> Exception:
    """An exception that survives the pipe, with its traceback as a note: our own, or a description of another's."""
    kept = error if isinstance(error, FlashVidError) else RuntimeError(f"{type(error).__name__}: {error}")
    kept.add_note("in the decode process:\n" + "".join(traceback.format_exception(error)))
    return kept


if __name__ == "__main__":
    main()
