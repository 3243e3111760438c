"""Decode videos in a child process, so that a file that crashes, hangs or exhausts its decoder fails alone."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from mmap import mmap
from multiprocessing import Pipe
from tempfile import TemporaryFile
from typing import IO, Any

from pipeline.clip import DecodedClip
from pipeline.config import SamplingConfig
from pipeline.errors import DecodeMemoryError, DecoderDiedError, DecodeTimeoutError, WorkerDiedError
from pipeline.video.child import frames_in
from pipeline.video.clip_frames import FrameTransform, collect
from pipeline.video.frame_blocks import FrameBlock, RemoteVideo, frame_blocks

_START_LIMIT_S = 120.0
_GIBIBYTE = 1 << 30

Decode = Callable[[str | RemoteVideo, SamplingConfig, float | None, float | None], Iterator[FrameBlock]]


class DecodeProcess:
    """Decodes clips in a child process, and starts a new child after one dies.

    Args:
        time_limit_s: Seconds that the decoder may take for a clip, without the time that the caller spends on frames.
        memory_limit_gb: GiB that the decoder may allocate in addition to its loaded code (Linux only).
        decode: Function that runs in the child; it must be importable.
    """

    def __init__(self, *, time_limit_s: float, memory_limit_gb: float, decode: Decode = frame_blocks) -> None:
        self._time_limit_s = time_limit_s
        self._memory_limit = int(memory_limit_gb * _GIBIBYTE)
        self._decode = decode
        self._start()

    @property
    def pid(self) -> int:
        """Return the process id of the current child."""
        return self._child.pid

    def decode_clip(
        self,
        path: str | RemoteVideo,
        sampling: SamplingConfig,
        start_s: float | None,
        end_s: float | None,
        *,
        transform_for: Callable[[int], FrameTransform] = lambda _: lambda frames: frames,
    ) -> DecodedClip:
        """Decode the sampled frames of a clip; the arguments are those of `decode_clip` in `clip_frames`.

        If a child that has already decoded other clips dies or runs out of memory, they may be the cause, so the clip
        is tried once more in a new child.

        Raises:
            UnreadableVideoError: the file can't be decoded.
            VideoNotFoundError: there is no such remote file.
            SourceUnreachableError: the store of a remote file did not answer.
            DecoderDiedError: a child that decoded nothing else crashed.
            WorkerDiedError: a child that decoded nothing else was killed (SIGKILL).
            DecodeTimeoutError: decoding took more than `time_limit_s`, or the child did not start in time.
            DecodeMemoryError: decoding needs more than `memory_limit_gb`.
        """
        while True:
            used = self._used
            try:
                with closing(self._blocks(path, sampling, start_s, end_s)) as blocks:
                    return collect(blocks, transform_for)
            except (DecoderDiedError, WorkerDiedError, DecodeMemoryError):
                if not used:
                    raise
                self._restart()

    def close(self) -> None:
        """End the child."""
        self._connection.close()
        self._child.kill()
        self._child.wait()

    def _start(self) -> None:
        """Start a child without waiting for it."""
        self._used = False
        self._connection, theirs = Pipe()
        with theirs, _memory_file() as memory:
            # Enough address space for everything that the child may allocate; only pages with frames use memory.
            memory.truncate(self._memory_limit)
            self._shared = mmap(memory.fileno(), self._memory_limit)
            descriptors = [theirs.fileno(), memory.fileno()]
            self._child = subprocess.Popen(  # noqa: S603 - a module of this project
                [sys.executable, "-m", "pipeline.video.child", *map(str, descriptors), str(self._memory_limit)],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},  # noqa: PTH109
            )

    def _restart(self) -> None:
        self.close()
        self._start()

    def _blocks(self, *clip: object) -> Generator[FrameBlock]:
        """Yield the blocks of a clip as they arrive. If the caller stops early, the child is replaced by a new one."""
        finished = False
        too_long = (
            f"decoding this file took more than {self._time_limit_s:g} s: raise resources.decode.time_limit_s if it "
            "happens again"
        )
        try:
            if not self._used:
                self._receive(_START_LIMIT_S, f"the video decoding process did not start within {_START_LIMIT_S:g} s")
            self._used = True
            self._connection.send((self._decode, clip, self._time_limit_s))
            left_s = self._time_limit_s
            while True:
                self._connection.send("next")
                asked = time.monotonic()
                reply = self._receive(left_s, too_long)
                left_s -= time.monotonic() - asked
                if reply is None or isinstance(reply, Exception):
                    finished = True
                    break
                num_frames, frame_timestamps, shape = reply
                yield FrameBlock(num_frames, frame_timestamps, frames_in(self._shared, shape))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            cause = self._cause_of_death()
            message = f"the process that decoded this file died ({cause})"
            # SIGKILL comes from outside, for example from a machine without free memory: the file may be good.
            raise WorkerDiedError(message) if cause == "SIGKILL" else DecoderDiedError(message) from None
        finally:
            if not finished:
                self._restart()
        if reply is not None:
            raise reply

    def _receive(self, timeout_s: float, message: str) -> Any:  # noqa: ANN401 - header, None or exception
        if not self._connection.poll(max(timeout_s, 0.0)):
            raise DecodeTimeoutError(message)
        return self._connection.recv()

    def _cause_of_death(self) -> str:
        code = self._child.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _memory_file() -> IO[bytes]:
    """Return an anonymous file in memory, or a temporary file on disk if the system has no such files.

    The file disappears when no process has it open or mapped.
    """
    return os.fdopen(os.memfd_create("flashvid-frames"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile()
