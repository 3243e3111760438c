"""Read untrusted videos in a child process, so that a file that crashes, hangs or exhausts its decoder fails alone."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from mmap import mmap
from multiprocessing import Pipe
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

from pipeline.clip import DecodedClip
from pipeline.config import SamplingConfig
from pipeline.errors import DecodeMemoryError, DecoderDiedError, DecodeTimeoutError, WorkerDiedError
from pipeline.video.child import frames_in
from pipeline.video.clip_frames import FrameTransform, collect
from pipeline.video.frame_blocks import FrameBlock, frame_blocks
from pipeline.video.packet_index import VideoHeader
from pipeline.video.probing import Probe, probes
from pipeline.video.remote_file import RangeServer, RemoteVideo
from pipeline.video.replies import MAX_BYTES, BlockHeader, End, decode

_LOG = logging.getLogger(__name__)
_START_LIMIT_S = 120.0
_GIBIBYTE = 1 << 30
# What the child may know of this process's environment, which holds credentials and Ray's token.
_VARIABLES = ("PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONHASHSEED", "PYTHONWARNINGS")
_PREFIXES = ("LC_", "OMP_", "OPENBLAS_", "MKL_", "MALLOC_")

Decode = Callable[[str | IO[bytes], SamplingConfig, float | None, float | None], Iterator[FrameBlock]]
_T = TypeVar("_T")


class DecodeProcess:
    """Decodes clips and probes files in a child process, and starts a new child after one dies.

    The child has no credentials in its environment, and on Linux no right to open sockets or to write files.

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
        video: str | RemoteVideo,
        sampling: SamplingConfig,
        start_s: float | None,
        end_s: float | None,
        *,
        transform_for: Callable[[int], FrameTransform] = lambda _: lambda frames: frames,
    ) -> DecodedClip:
        """Decode the sampled frames of a clip; the arguments are those of `decode_clip` in `clip_frames`.

        If a child that has already read other files dies or runs out of memory, they may be the cause, so the clip is
        tried once more in a new child.

        Raises:
            UnreadableVideoError: the file can't be decoded.
            VideoNotFoundError: there is no such remote file.
            SourceUnreachableError: the store of a remote file did not answer.
            DecoderDiedError: a child that read nothing else crashed.
            WorkerDiedError: a child that read nothing else was killed (SIGKILL).
            DecodeTimeoutError: it took more than `time_limit_s`, or the child did not start in time.
            DecodeMemoryError: it needs more than `memory_limit_gb`.
        """

        def decode() -> DecodedClip:
            with closing(self._replies(self._decode, video, sampling, start_s, end_s)) as blocks:
                return collect(blocks, transform_for)

        return self._twice(decode)

    def probe(self, video: str | RemoteVideo) -> Probe:
        """Read the packets of a file; errors as in `decode_clip`."""

        def probe() -> Probe:
            with closing(self._replies(probes, video)) as found:
                (one,) = found
            return Probe(VideoHeader(**one["header"]), one["decoder"], tuple(one["objections"]))

        return self._twice(probe)

    def _twice(self, work: Callable[[], _T]) -> _T:
        while True:
            used = self._used
            try:
                return work()
            except (DecoderDiedError, WorkerDiedError, DecodeMemoryError):
                if not used:
                    raise
                self._restart()

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        self._child.wait()
        if self._server is not None:
            self._server.join()  # it sees that the child is gone
        self._connection.close()
        self._ranges.close()

    def _start(self) -> None:
        """Start a child without waiting for it."""
        self._used = False
        self._server: RangeServer | None = None
        self._connection, theirs = Pipe()
        self._ranges, remote = Pipe()
        with theirs, remote, _memory_file() as memory:
            # Enough address space for everything that the child may allocate; only pages with frames use memory.
            memory.truncate(self._memory_limit)
            self._shared = mmap(memory.fileno(), self._memory_limit)
            descriptors = [theirs.fileno(), remote.fileno(), memory.fileno()]
            self._child = subprocess.Popen(  # noqa: S603 - a module of this project
                [sys.executable, "-m", "pipeline.video.child", *map(str, descriptors), str(self._memory_limit)],
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=_without_credentials(os.environ),
            )

    def _restart(self) -> None:
        self.close()
        self._start()

    def _replies(
        self, function: Callable[..., Iterator[Any]], video: str | RemoteVideo, *arguments: object
    ) -> Generator[Any]:
        """Yield what a function yields for a video, as it arrives. If the caller stops early, the child is replaced."""
        if not self._used:
            self._wait_for_start()
        self._used = True
        self._server = server = RangeServer(video, self._ranges) if isinstance(video, RemoteVideo) else None
        finished = False
        too_long = (
            f"reading this file took more than {self._time_limit_s:g} s: raise resources.decode.time_limit_s if it "
            "happens again"
        )
        try:
            wanted = video if server is None else server.size
            self._connection.send((function, wanted, arguments, self._time_limit_s))
            left_s = self._time_limit_s
            while True:
                self._connection.send("next")
                asked = time.monotonic()
                reply = self._receive(left_s, too_long)
                left_s -= time.monotonic() - asked
                if isinstance(reply, End):
                    finished = True
                    break
                if isinstance(reply, BlockHeader):
                    frames = frames_in(self._shared, reply.shape)
                    reply = FrameBlock(reply.num_frames, reply.frame_timestamps, frames)
                yield reply
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._death() from None
        finally:
            if not finished:
                self._restart()
        if reply.error is not None:
            if server is not None:
                server.check()
            raise reply.error

    def _wait_for_start(self) -> None:
        try:
            sandboxed = self._receive(_START_LIMIT_S, f"the video decoding process took {_START_LIMIT_S:g} s to start")
        except (EOFError, ConnectionResetError, DecodeTimeoutError) as error:
            death = error if isinstance(error, DecodeTimeoutError) else self._death()
            self._restart()
            raise death from None
        if not sandboxed:
            _LOG.warning(
                "this kernel has no seccomp filters: the video decoding process may open sockets and files "
                "(docs/security.md)"
            )

    def _receive(self, timeout_s: float, message: str) -> Any:  # noqa: ANN401 - see `decode`
        if not self._connection.poll(max(timeout_s, 0.0)):
            raise DecodeTimeoutError(message)
        try:
            return decode(self._connection.recv_bytes(MAX_BYTES))
        except (EOFError, ConnectionResetError):
            raise
        except (ValueError, OSError) as error:
            raise DecoderDiedError(f"the process that read this file sent what is no reply ({error})") from None

    def _death(self) -> DecoderDiedError | WorkerDiedError:
        code = self._child.wait()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        message = f"the process that read this file died ({cause})"
        # SIGKILL comes from outside, for example from a machine without free memory: the file may be good.
        return WorkerDiedError(message) if cause == "SIGKILL" else DecoderDiedError(message)


def _without_credentials(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {name: environment[name] for name in environment if name in _VARIABLES or name.startswith(_PREFIXES)}
    return {**kept, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}  # noqa: PTH109


def _memory_file() -> IO[bytes]:
    """Return an anonymous file in memory, or a temporary file on disk if the system has no such files.

    The file disappears when no process has it open or mapped.
    """
    return os.fdopen(os.memfd_create("flashvid-frames"), "w+b") if hasattr(os, "memfd_create") else TemporaryFile()
