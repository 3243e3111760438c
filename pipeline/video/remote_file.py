"""Let the video decoding process read a remote file: its parent, which has the credentials, reads the ranges for it."""

import io
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from struct import error as StructError  # noqa: N812 - its name says nothing
from typing import Any

from pipeline.errors import SourceUnreachableError, VideoNotFoundError
from pipeline.store.filesystem import described, real_error, resolve
from pipeline.video.range_file import REQUEST

_LAST_READ_S = 10.0
# FFmpeg asks for kilobytes.
_MOST_BYTES = 64 << 20


@dataclass(frozen=True)
class RemoteVideo:
    """A file on an object store that is read by ranges.

    Attributes:
        url: Any fsspec URL.
        storage_options: Options for fsspec; credentials come from the environment.
    """

    url: str
    storage_options: Mapping[str, Any]


class RangeServer:
    """Reads ranges of a remote file in a thread, for a `RangeFile` at the other end of a connection.

    Args:
        video: The file.
        connection: This process's end; replies are bytes, or None after an error. The thread ends when the other end
            sends `NO_MORE` or is closed.

    Raises:
        VideoNotFoundError: there is no such file.
        SourceUnreachableError: the store did not say whether there is.

    Attributes:
        size: Bytes of the file.
    """

    def __init__(self, video: RemoteVideo, connection: Connection) -> None:
        self._url, self._connection = video.url, connection
        self._error: Exception | None = None
        try:
            fs, inner = resolve(video.url, video.storage_options)
            self._file = fs.open(inner, "rb")
            self._file.seek(0, io.SEEK_END)
            self.size: int = self._file.tell()
        except Exception as caught:
            error = real_error(caught)
            if isinstance(error, FileNotFoundError):
                raise VideoNotFoundError(f"no video file at {video.url}") from None
            raise self._unreachable(error) from caught
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the thread has ended, or for as long as a last read may take."""
        self._thread.join(_LAST_READ_S)

    def check(self) -> None:
        """Confirm that every range was read.

        Raises:
            SourceUnreachableError: the store did not answer; FFmpeg has reported it as damage to the file.
        """
        self.join()
        if self._error is not None:
            raise self._unreachable(self._error) from self._error

    def _serve(self) -> None:
        # The other process may die at any moment.
        with self._file, suppress(EOFError, OSError, StructError):
            while asked := self._connection.recv_bytes(REQUEST.size):
                self._connection.send(self._read(*REQUEST.unpack(asked)))

    def _read(self, offset: int, size: int) -> bytes | None:
        try:
            self._file.seek(min(offset, self.size))
            return bytes(self._file.read(min(size, _MOST_BYTES)))
        except Exception as error:  # noqa: BLE001 - raised again by `check`
            self._error = error
            return None

    def _unreachable(self, error: Exception) -> SourceUnreachableError:
        return SourceUnreachableError(f"{self._url} can't be read ({type(error).__name__}: {described(error)})")
