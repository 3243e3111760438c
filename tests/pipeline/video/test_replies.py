"""What the child may say: exactly what it said arrives, and nothing else is taken for a reply."""

import json
import pickle
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DecodeMemoryError, UnreadableVideoError
from pipeline.video.frame_blocks import FrameBlock
from pipeline.video.range_file import NO_MORE, REQUEST, RangeFile
from pipeline.video.remote_file import RangeServer, RemoteVideo
from pipeline.video.replies import BlockHeader, End, decode, encode


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5))
def test_timestamps_arrive_to_the_bit(times: list[float]) -> None:
    """JSON holds the shortest digits that give the same number."""
    frames = np.zeros((len(times), 2, 4, 3), dtype=np.uint8)
    header = decode(encode(FrameBlock(7, np.array(times, dtype=np.float64), frames)))
    assert isinstance(header, BlockHeader)
    assert (header.num_frames, header.shape) == (7, frames.shape)
    assert header.frame_timestamps.tobytes() == np.array(times, dtype=np.float64).tobytes()


@pytest.mark.parametrize("error", [UnreadableVideoError("why"), DecodeMemoryError("why"), KeyError("k")])
def test_errors_arrive_with_their_class_and_traceback(error: Exception) -> None:
    """One that is not ours is described."""
    end = decode(encode(End(error)))
    assert isinstance(end, End)
    found = end.error
    assert found is not None
    assert type(found) is (RuntimeError if isinstance(error, KeyError) else type(error))
    assert str(found) == ("KeyError: 'k'" if isinstance(error, KeyError) else "why")
    assert found.__notes__[0].startswith("traceback of the video decoding process:\n")
    assert decode(encode(End(None))) == End(None)


class _Mine:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("it was unpickled",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(_Mine()),
        b"",
        b"[]",
        b"null",
        b'{"block": 7}',
        b'{"block": [1, [0.5], "shape"]}',
        b'{"end": [1]}',
        b'{"a": 1, "b": 2}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_reply_is_refused(content: bytes) -> None:
    """And never unpickled: a file that has taken the child over must not reach the parent."""
    with pytest.raises((ValueError, RecursionError)):
        decode(content)


def test_an_error_class_of_another_module_is_none_of_ours() -> None:
    """Names are looked up among our errors only."""
    end = decode(json.dumps({"end": ["SystemExit", "m", "t"]}).encode())
    assert type(end.error) is RuntimeError


def test_a_remote_file_reads_like_a_local_one(tmp_path: Path) -> None:
    """In pieces of any size, from any place; a request beyond the end, or nonsense, gives nothing away."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 40)
    ours, theirs = Pipe()
    server = RangeServer(RemoteVideo(f"file://{path}", {}), ours)
    there = RangeFile(theirs, server.size)
    with path.open("rb") as here:
        for offset, whence, size in ((0, 0, 10), (5, 1, 300), (-7, 2, 100), (9000, 0, -1), (20_000, 0, 5), (0, 0, 0)):
            assert there.seek(offset, whence) == here.seek(offset, whence)
            assert there.read(size) == here.read(size)
            assert there.tell() == here.tell()
    theirs.send_bytes(REQUEST.pack(2**63, 2**63))
    assert theirs.recv() == b""
    theirs.send_bytes(NO_MORE)
    server.check()
    assert not server._thread.is_alive()
