"""The process that decodes, under decoders that crash, hang and swell."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from flashvid.errors import PermanentError, TransientError
from pipeline.config import SamplingConfig
from pipeline.errors import (
    DecodeMemoryError,
    DecoderDiedError,
    DecodeTimeoutError,
    UnreadableVideoError,
    WorkerDiedError,
)
from pipeline.video.clip_frames import decode_clip
from pipeline.video.frame_blocks import FrameBlock, frame_blocks
from pipeline.video.probing import read_probe
from pipeline.video.process import DecodeProcess

FOUR = SamplingConfig(num_frames=4)
_decoded_here: list[str] = []
TARGET = Path("/tmp/flashvid-test-sandbox")  # noqa: S108 - nobody may write it


def mischief(path: str, sampling: SamplingConfig, start_s: float | None, end_s: float | None) -> Iterator[FrameBlock]:
    """A decoder, run in the child, that does what the name of the file says."""
    del sampling, start_s, end_s
    _decoded_here.append(path)
    yield FrameBlock(2, np.array([0.0]), np.full((1, 4, 6, 3), os.getpid() % 251, dtype=np.uint8))
    if path == "crashes" or (path == "crashes after others" and len(_decoded_here) > 1):
        os.kill(os.getpid(), signal.SIGSEGV)
    if path == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if path == "hangs":
        time.sleep(60)
    if path == "dawdles":
        for _ in range(60):
            time.sleep(0.1)
            yield FrameBlock(2, np.array([0.0]), np.zeros((1, 4, 6, 3), dtype=np.uint8))
    if path == "swells":
        held = [np.ones(64 << 20, dtype=np.uint8) for _ in range(32)]
        del held
    if path == "raises":
        raise KeyError(path)
    yield FrameBlock(2, np.array([0.5]), np.zeros((1, 4, 6, 3), dtype=np.uint8))


def tries(path: str, *_: object) -> Iterator[object]:
    """A reader, run in the child, that tries what the name of the file says; yields what came of it."""
    try:
        yield ATTEMPTS[path]()
    except OSError as error:
        yield error.strerror


def _write(mode: str) -> Callable[[], object]:
    return lambda: TARGET.open(mode).close()


def _in_a_thread() -> list[int]:
    found: list[int] = []
    thread = threading.Thread(target=found.append, args=(1,))
    thread.start()
    thread.join()
    return found


ATTEMPTS: dict[str, Callable[[], object]] = {
    "a TCP socket": socket.socket,
    "a UDP socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "a Unix socket": lambda: socket.socket(socket.AF_UNIX),
    "a pair of sockets": socket.socketpair,
    "a program": lambda: subprocess.run(["true"], check=True),  # noqa: S607
    "a fork": os.fork,
    "a new file": _write("x"),
    "an old file": _write("w"),
    "an end of a file": _write("a"),
    "a folder": TARGET.mkdir,
    "a removal": lambda: Path("/nowhere").unlink(),
    "a signal to its parent": lambda: os.kill(os.getppid(), 0),
    "a thread": _in_a_thread,
    "a file to read": lambda: Path("/proc/self/status").read_text()[:5],
    "variables": lambda: sorted(os.environ),
}
ALLOWED = {"a thread": [1], "a file to read": "Name:"}


@pytest.fixture(scope="module")
def caged() -> Iterator[DecodeProcess]:
    """A process whose function tries things; its environment is that of a run with credentials."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN", "HF_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS"):
            patch.setenv(name, "secret")
        patch.setenv("LC_ALL", "C.UTF-8")
        process = DecodeProcess(time_limit_s=60.0, memory_limit_gb=0.5)
    yield process
    process.close()


@pytest.mark.skipif(sys.platform != "linux", reason="rights are taken away on Linux only")
@pytest.mark.parametrize("what", [name for name in ATTEMPTS if name != "variables"])
def test_the_child_has_few_rights(caged: DecodeProcess, what: str) -> None:
    """Nothing that would let a file reach the network, other files or other processes; it still reads and decodes."""
    (found,) = caged._replies(tries, what)
    assert found == ALLOWED.get(what, "Operation not permitted")
    assert not TARGET.exists()


def test_the_child_has_no_credentials(caged: DecodeProcess) -> None:
    """What is left of the environment is known by name."""
    (names,) = caged._replies(tries, "variables")
    assert {"LC_ALL", "PATH", "PYTHONPATH"} <= set(names)
    assert [name for name in names if not re.match("PATH|PYTHON|HOME|LANG|TZ|TMPDIR|LC_|LD_|OMP_|MKL_", name)] == []


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_the_child_decodes_with_few_rights(caged: DecodeProcess, sample_videos: Path, decoder: str) -> None:
    """Both readers."""
    sampling = SamplingConfig.model_validate({"num_frames": 4, "decoder": decoder})
    path = str(sample_videos / "three_boxes.mp4")
    there, here = caged.decode_clip(path, sampling, None, None), decode_clip(path, sampling, None, None)
    np.testing.assert_array_equal(there.frames, here.frames)
    assert caged.probe(path) == read_probe(path)


@pytest.fixture(scope="module")
def naughty() -> Iterator[DecodeProcess]:
    """A process of little memory that decodes with `mischief`: one for all tests, which it has to survive."""
    process = DecodeProcess(time_limit_s=60.0, memory_limit_gb=0.5, decode=mischief)
    yield process
    process.close()


def test_it_decodes_as_in_this_process(sample_videos: Path) -> None:
    """The same frames and times, several clips after one another in one child; its errors arrive as they are."""
    path = str(sample_videos / "moving_red_disc.mp4")
    process = DecodeProcess(time_limit_s=60.0, memory_limit_gb=4.0)
    try:
        pid = process.pid
        for sampling, start_s, end_s in ((SamplingConfig(num_frames=40), None, None), (FOUR, 1.0, 3.0)):
            theirs = process.decode_clip(path, sampling, start_s, end_s, transform_for=lambda _: lambda f: f[:, ::2])
            ours = decode_clip(path, sampling, start_s, end_s)
            np.testing.assert_array_equal(theirs.frames, ours.frames[:, ::2])
            np.testing.assert_array_equal(theirs.frame_timestamps, ours.frame_timestamps)
        with pytest.raises(UnreadableVideoError, match="no frame between 90") as caught:
            process.decode_clip(path, FOUR, 90.0, None)
        assert "sample_frames" in "".join(caught.value.__notes__)
        assert process.pid == pid
    finally:
        process.close()
    assert pickle.loads(pickle.dumps(frame_blocks)) is frame_blocks  # noqa: S301 - how the child is told


@pytest.mark.parametrize(
    ("path", "error", "kind", "message"),
    [
        ("crashes", DecoderDiedError, PermanentError, "died .SIGSEGV"),
        ("is killed", WorkerDiedError, TransientError, "died .SIGKILL"),
        ("hangs", DecodeTimeoutError, TransientError, r"took more than 0\.5 s"),
        ("dawdles", DecodeTimeoutError, TransientError, r"took more than 0\.5 s"),
        ("swells", DecodeMemoryError, PermanentError, "more memory than resources.decode.memory_limit_gb"),
        ("raises", RuntimeError, Exception, "KeyError: 'raises'"),
    ],
)
def test_a_bad_file_costs_only_itself(
    naughty: DecodeProcess,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    error: type[Exception],
    kind: type[Exception],
    message: str,
) -> None:
    """Each ends in its own error, in the middle of a clip; the clips before and after are decoded."""
    assert naughty.decode_clip("good", FOUR, None, None).frames.shape == (2, 4, 6, 3)
    with monkeypatch.context() as patch, pytest.raises(error, match=message) as caught:
        if path in ("hangs", "dawdles"):
            # For what never ends, and for nothing else: on a busy machine a good clip may take as long.
            patch.setattr(naughty, "_time_limit_s", 0.5)
        naughty.decode_clip(path, FOUR, None, None)
    assert isinstance(caught.value, kind)
    assert naughty.decode_clip("good", FOUR, None, None).frame_timestamps.tolist() == [0.0, 0.5]


def test_a_crash_that_earlier_files_prepared_is_not_this_files_fault(naughty: DecodeProcess) -> None:
    """Memory that an earlier file damaged: in a new process the clip is decoded."""
    before = naughty.pid
    naughty.decode_clip("good", FOUR, None, None)
    clip = naughty.decode_clip("crashes after others", FOUR, None, None)
    assert len(clip.frames) == 2
    assert naughty.pid != before
    assert clip.frames[0, 0, 0, 0] == naughty.pid % 251


def test_a_clip_that_is_given_up_leaves_nothing_in_the_pipe(naughty: DecodeProcess) -> None:
    """When what is made of the frames fails, the next clip gets its own frames."""

    def broken(_: int) -> None:
        raise ValueError("no such size")

    with pytest.raises(ValueError, match="no such size"):
        naughty.decode_clip("good", FOUR, None, None, transform_for=broken)  # type: ignore[arg-type]
    clip = naughty.decode_clip("good", FOUR, None, None)
    assert clip.frame_timestamps.tolist() == [0.0, 0.5]
    assert clip.frames[0, 0, 0, 0] == naughty.pid % 251


def test_the_child_is_small_and_ends_with_its_owner() -> None:
    """Neither torch nor Ray is loaded in it; it does not outlive the pipe."""
    process = DecodeProcess(time_limit_s=2.0, memory_limit_gb=0.5, decode=mischief)
    process.decode_clip("good", FOUR, None, None)
    child = psutil.Process(process.pid)
    loaded = " ".join(mapped.path for mapped in child.memory_maps())
    assert "libav" in loaded
    assert "torch" not in loaded
    process._connection.close()  # what the death of its owner does
    assert child.wait(timeout=30) == 0
    process.close()
