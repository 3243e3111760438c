"""A remote file as the video decoding process sees it: each read asks the parent process."""

import errno
import io
from multiprocessing.connection import Connection
from struct import Struct

REQUEST = Struct("<QQ")
"""A request for a range: offset and size in bytes. Plain numbers, since the parent does not trust this process."""
NO_MORE = b""
"""What is sent instead of a request when the file is read."""


class RangeFile:
    """A file that FFmpeg can read, without a connection to its store.

    Args:
        connection: Connection to the `RangeServer` of the parent.
        size: Bytes of the file.
    """

    def __init__(self, connection: Connection, size: int) -> None:
        self._connection, self._size, self._place = connection, size, 0

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes.

        Raises:
            OSError: the parent could not read them.
        """
        left = max(self._size - self._place, 0)
        size = left if size < 0 else min(size, left)
        if size == 0:
            return b""
        self._connection.send_bytes(REQUEST.pack(self._place, size))
        content: bytes | None = self._connection.recv()
        if content is None:
            raise OSError(errno.EIO, "the parent process could not read the file")
        self._place += len(content)
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place, relative to the start, the current place or the end; return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def tell(self) -> int:
        """Return the current place."""
        return self._place
