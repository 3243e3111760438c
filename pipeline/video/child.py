"""Run the video decoding process: it serves requests from a pipe, in a sandbox with limits, and may crash.

    python -m pipeline.video.child PIPE RANGES SHARED_MEMORY MEMORY_LIMIT_BYTES    (three descriptors and a number)

It imports neither torch, Ray, pyarrow nor fsspec, so it starts in a fraction of a second. A request is a function, the
path of a file or the size of a remote one, further arguments, and a time limit in seconds; the function yields
`FrameBlock` or JSON values. For each further message from the parent, the child replies with the next one (`replies`);
the frames of a block stay in the shared memory until the next message. While the parent works on a block, the child
decodes the next one. The bytes of a remote file come through RANGES.
"""

import math
import signal
import sys
from collections.abc import Iterator
from mmap import mmap
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DecodeMemoryError
from pipeline.video.frame_blocks import FrameBlock  # imports all decoders before the limits and the sandbox
from pipeline.video.limits import limit_memory
from pipeline.video.range_file import NO_MORE, RangeFile
from pipeline.video.replies import End, encode
from pipeline.video.sandbox import enter_sandbox

# The parent enforces the time limit. This timer only ends a child that hangs after its parent has died.
_GRACE_S = 30.0


def main() -> None:
    """Serve requests until the parent closes the pipe."""
    pipe, ranges, memory, memory_limit = map(int, sys.argv[1:])
    shared = mmap(memory, 0)
    limit_memory(memory_limit)
    with Connection(pipe) as parent, Connection(ranges) as remote:
        parent.send_bytes(encode(enter_sandbox()))
        try:
            while True:
                _serve(parent, remote, shared)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the parent closed the pipe


def _serve(parent: Connection, remote: Connection, shared: mmap) -> None:
    function, video, arguments, time_limit_s = parent.recv()
    is_remote = isinstance(video, int)
    values = function(RangeFile(remote, video) if is_remote else video, *arguments)
    while True:
        signal.setitimer(signal.ITIMER_REAL, time_limit_s + _GRACE_S)
        reply = _next(values)
        signal.setitimer(signal.ITIMER_REAL, 0)
        parent.recv()
        if isinstance(reply, FrameBlock):
            frames_in(shared, reply.frames.shape)[...] = reply.frames
        if isinstance(reply, End) and is_remote:
            remote.send_bytes(NO_MORE)
        parent.send_bytes(encode(reply))
        if isinstance(reply, End):
            return


def frames_in(shared: mmap, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return a view of the frames at the start of the shared memory: uint8 of this shape, `[f, H, W, 3]`."""
    return np.frombuffer(shared, dtype=np.uint8, count=math.prod(shape)).reshape(shape)


def _next(values: Iterator[Any]) -> Any:  # noqa: ANN401 - what the function of the request yields, or the end
    try:
        return next(values, End(None))
    except MemoryError:
        message = (
            "reading this file takes more memory than resources.decode.memory_limit_gb: raise that limit, then use "
            "flashvid retry"
        )
        return End(DecodeMemoryError(message))
    except Exception as error:  # noqa: BLE001 - raised again in the parent
        return End(error)


if __name__ == "__main__":
    main()
