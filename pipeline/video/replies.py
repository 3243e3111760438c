"""Encode what the video decoding process replies as JSON, so that the parent need not trust it.

The child parses untrusted files and may have been taken over by one. Unpickling what it sends would give such a file
all rights of the parent.
"""

import json
import traceback
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import flashvid.errors
import pipeline.errors
from flashvid.errors import FlashVidError
from pipeline.video.frame_blocks import FrameBlock

MAX_BYTES = 64 << 20
"""Largest reply that is received: the timestamps of a few million frames."""

_ERRORS = {
    name: kind
    for module in (flashvid.errors, pipeline.errors)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, FlashVidError)
}


class BlockHeader(NamedTuple):
    """A `FrameBlock` without its frames, and their shape."""

    num_frames: int
    frame_timestamps: NDArray[np.float64]
    shape: tuple[int, ...]


class End(NamedTuple):
    """The end of the replies to a request, and the error that it ended with."""

    error: Exception | None


def encode(reply: object) -> bytes:
    """Encode a `FrameBlock` (without its frames), an `End`, or any value that JSON can express."""
    if isinstance(reply, FrameBlock):
        return _json("block", [reply.num_frames, reply.frame_timestamps.tolist(), list(reply.frames.shape)])
    if isinstance(reply, End):
        return _json("end", None if reply.error is None else _described(reply.error))
    return _json("value", reply)


def decode(content: bytes) -> Any:  # noqa: ANN401 - a header, an end or a value
    """Return what `encode` encoded, a block as a `BlockHeader`.

    Raises:
        ValueError: the content is none of these.
    """
    try:
        ((kind, content_of),) = json.loads(content).items()
        if kind == "block":
            num_frames, timestamps, shape = content_of
            return BlockHeader(int(num_frames), np.array(timestamps, dtype=np.float64), tuple(map(int, shape)))
        if kind == "end":
            return End(None if content_of is None else _error(*map(str, content_of)))
    except (AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"not a reply: {error}") from None
    return content_of


def _json(kind: str, content: object) -> bytes:
    return json.dumps({kind: content}).encode()


def _described(error: Exception) -> list[str]:
    """Return class, message and traceback of an error; one that is not ours becomes a RuntimeError."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, FlashVidError):
        return [type(error).__name__, error.message, trace]
    return [RuntimeError.__name__, f"{type(error).__name__}: {error}", trace]


def _error(name: str, message: str, trace: str) -> Exception:
    error = _ERRORS.get(name, RuntimeError)(message)
    error.add_note(f"traceback of the video decoding process:\n{trace}")
    return error
