"""Run the video decoding process: it serves requests from a pipe, with limits on memory and time, and may crash.

    python -m pipeline.video.child PIPE SHARED_MEMORY MEMORY_LIMIT_BYTES     (two file descriptors and a number)

It imports neither torch, Ray, pyarrow nor fsspec, so it starts in a fraction of a second. A request is a function that
yields `FrameBlock` objects, its arguments, and a time limit in seconds. For each further message from the parent, the
child replies with the header of the next block, whose frames stay in the shared memory until the next message. The last
reply is None or an exception. While the parent works on a block, the child decodes the next one.
"""

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
from pipeline.video.frame_blocks import FrameBlock  # imports all decoders before the memory limit is set
from pipeline.video.limits import limit_memory

# The parent enforces the time limit. This timer only ends a child that hangs after its parent has died.
_GRACE_S = 30.0


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    pipe, memory, memory_limit = map(int, sys.argv[1:])
    shared = mmap(memory, 0)
    limit_memory(memory_limit)
    with Connection(pipe) as parent:
        parent.send("ready")
        try:
            while True:
                _serve(parent, shared)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent closed the pipe


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
    """Return a view of the frames at the start of the shared memory: uint8 of this shape, `[f, H, W, 3]`."""
    return np.frombuffer(shared, dtype=np.uint8, count=math.prod(shape)).reshape(shape)


def _next(blocks: Iterator[FrameBlock]) -> FrameBlock | Exception | None:
    try:
        return next(blocks, None)
    except MemoryError:
        return DecodeMemoryError(
            "decoding this file takes more memory than resources.decode.memory_limit_gb: raise that limit, then use "
            "flashvid retry"
        )
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        return _portable(error)


def _portable(error: Exception) -> Exception:
    """Return an exception that can be pickled, with the traceback as a note.

    A `FlashVidError` is returned itself; any other exception is described by a `RuntimeError`.
    """
    kept = error if isinstance(error, FlashVidError) else RuntimeError(f"{type(error).__name__}: {error}")
    kept.add_note("traceback of the video decoding process:\n" + "".join(traceback.format_exception(error)))
    return kept


if __name__ == "__main__":
    main()
