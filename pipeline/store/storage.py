"""One folder on any fsspec URL, with the one write the guarantees need: exclusive, atomic creation.

Every object is written once under its final name and never changed. Locally that is a temporary file, fsync, and a
hard link (which fails if the name is taken); on object stores a conditional PUT (`If-None-Match`). A store without
such a PUT is found out before the first write; there, a name is only looked at before it is written.
"""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashvid.errors import ConfigurationError
from pipeline.errors import StorageUnavailableError
from pipeline.store.filesystem import FINAL_ERRORS, is_local, resolve

if TYPE_CHECKING:
    import pyarrow as pa

# For one object, all tries together. A write under the lease has to end well before another host may take over: below
# half the lease's life (`pipeline.store.lease.LEASE_SECONDS`).
WRITE_SECONDS = 25.0
_READ_SECONDS = 60.0
# Where nobody has given this process credentials: a machine's own may be slow to come, but mostly there are none.
_CREDENTIALS_SECONDS = 5.0
_FIRST_PAUSE_S = 0.2
_SCAN_THREADS = 16
_TEMPORARY = ".uploading-"
_FINAL_NUMBERS = (errno.EINVAL, errno.ENOSYS)


class Traffic:
    """Counts bytes and requests of any thread, each once, until they are taken.

    A copy has no counts: a Ray task that is given a storage reports its own traffic only.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def __reduce__(self) -> tuple[type[Traffic], tuple[()]]:
        return Traffic, ()

    def add(self, name: str, number: int = 1) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += number

    def take(self) -> dict[str, int]:
        """Return everything counted since the last call."""
        with self._lock:
            taken, self._counts = self._counts, Counter()
        return dict(taken)


class Storage:
    """A root folder and the objects below it, named by relative POSIX paths.

    Every method but those on local files repeats what failed without an answer, and raises `StorageUnavailableError`
    where none came in time.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.fs, self.root = resolve(url, storage_options)
        self.is_local = is_local(self.fs)
        # Others may have one connection, on which requests of several threads would mix.
        self.is_concurrent = self.is_local or self.fs.async_impl
        self._traffic = Traffic()
        if self.is_local and Path(self.root).is_file():
            raise ConfigurationError("is a file, not a folder", url)

    def path(self, name: str) -> str:
        """The filesystem's own path of an object."""
        return f"{self.root.rstrip('/')}/{name}"

    def create(self, name: str, content: bytes, *, within_s: float = WRITE_SECONDS) -> bool:
        """Write an object under its final name in one atomic step, unless the name is taken.

        Args:
            name: The object.
            content: All of it.
            within_s: Seconds that this may take on a remote store.

        Returns:
            True if this call made the object, or the object that is there holds exactly these bytes (the lost
            reply of one's own PUT is no conflict); False if somebody else's object is there.

        Raises:
            StorageUnavailableError: no answer in time. The object may be there, or may be yet to appear.
        """
        self._traffic.add("bytes_written", len(content))
        if self.is_exclusive:
            return self._create(name, content, within_s)
        if not self.exists(name):
            self._call(self.fs.pipe_file, self.path(name), content, within_s=within_s)
        return self.read(name) == content

    def add(self, name: str, content: bytes) -> None:
        """Write an object under a name that no other writer can have chosen. Raises FileExistsError."""
        if not self.create(name, content):
            raise FileExistsError(f"{name} was written by another process")

    @cached_property
    def is_exclusive(self) -> bool:
        """Whether the store itself refuses to write over an object, found out by trying it once."""
        if self.is_local:
            return True
        name = f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            return self._create(name, b"first", WRITE_SECONDS) and not self._create(name, b"second", WRITE_SECONDS)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, NotImplementedError) or error.errno in _FINAL_NUMBERS:
                return False  # it does not know such a request
            raise
        finally:
            with suppress(FileNotFoundError, PermissionError):
                self.remove(name)

    def read(self, name: str) -> bytes:
        """The whole content of an object. Raises FileNotFoundError."""
        content: bytes = self._call(self.fs.cat_file, self.path(name))
        self._traffic.add("bytes_read", len(content))
        return content

    def fetch(self, name: str, path: str, *, within_s: float) -> None:
        """Copy an object to a local file. Raises FileNotFoundError.

        Args:
            name: The object.
            path: Where to; overwritten.
            within_s: Seconds that this may take on a remote store.
        """
        self._call(self.fs.get_file, self.path(name), path, within_s=within_s)

    def scan(self, names: Sequence[str], schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Columns of Parquet objects: only these are read, some objects at once if they can be, each as its own table.

        Args:
            names: The objects.
            schema: Of the columns; null where an object lacks one.
            columns: Those wanted.
        """
        from pipeline.store.parquet import read_columns

        def read(name: str) -> pa.Table:
            with self.fs.open(self.path(name), "rb") as file:
                return read_columns(file, schema, columns)

        at_once = self.at_once(_SCAN_THREADS)
        with ThreadPoolExecutor(at_once) as pool:
            # Not all at once: what is read ahead is held in memory.
            for begin in range(0, len(names), 4 * at_once):
                some = names[begin : begin + 4 * at_once]
                yield from pool.map(lambda name: self._call(read, name, has_timeout=False), some)

    def at_once(self, most: int) -> int:
        """Requests that several threads may make side by side, of so many that are wished."""
        return most if self.is_concurrent else 1

    def take_traffic(self) -> dict[str, int]:
        """`bytes_written`, `bytes_read`, `requests_repeated` of whole objects since this was last asked."""
        return self._traffic.take()

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        return self._kind(name) not in (None, "directory")

    def has_folder(self, folder: str) -> bool:
        """Whether anything stands below a folder."""
        return self._kind(folder) == "directory"

    def _kind(self, name: str) -> str | None:
        # Not fs.exists: most filesystems take every trouble for a no.
        try:
            return str(self._call(self.fs.info, self.path(name))["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, folder: str) -> list[str]:
        """Names, relative to the root, of all finished objects below a folder, sorted; [] if there is none."""
        return sorted(name for name in self._find(folder) if _TEMPORARY not in name)

    def by_folder(self, folder: str) -> Mapping[str, list[str]]:
        """The same names, grouped by the folder that holds them."""
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self.names(folder):
            groups[name.rpartition("/")[0]].append(name)
        return groups

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every finished object below a folder, by name."""
        return {name: info["size"] for name, info in sorted(self._find(folder).items()) if _TEMPORARY not in name}

    def written(self, name: str) -> datetime:
        """When an object was written, by the store's clock. Raises FileNotFoundError."""
        return _written(self._call(self.fs.info, self.path(name)))

    def temporary_objects(self) -> dict[str, tuple[int, datetime]]:
        """What writers write to until an object is finished: its size, and when it was written to last, by name."""
        found = {name: info for name, info in self._find("").items() if _TEMPORARY in name}
        return {name: (info["size"], _written(info)) for name, info in found.items()}

    def remove(self, name: str) -> None:
        """Remove an object for good. Only care commands do; raises FileNotFoundError."""
        self._call(self.fs.rm_file, self.path(name))

    def _find(self, folder: str) -> dict[str, Mapping[str, Any]]:
        try:
            found = self._call(self.fs.find, self.path(folder).rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}
        prefix = self.root.rstrip("/") + "/"
        # SeaweedFS keeps a folder whose last object was removed, and lists it.
        return {path.removeprefix(prefix): info for path, info in found.items() if info["type"] != "directory"}

    def _create(self, name: str, content: bytes, within_s: float) -> bool:
        try:
            if self.is_local:
                _create_local(Path(self.path(name)), content)
            else:
                self._call(self.fs.pipe_file, self.path(name), content, mode="create", within_s=within_s)
        except FileNotFoundError as error:
            if self.is_local:
                raise
            # Object stores know no folders that would have to be made first: it is the bucket that is missing.
            raise ConfigurationError(f"can't be written to: {error}", self.url) from None
        except OSError as error:
            # SeaweedFS's refusal reaches us as EINVAL, others' as FileExistsError.
            if not isinstance(error, FileExistsError) and error.errno != errno.EINVAL:
                raise
            if not self.exists(name):
                raise
            return self.read(name) == content
        return True

    def _call(
        self,
        method: Callable[..., Any],
        *arguments: object,
        within_s: float = _READ_SECONDS,
        has_timeout: bool = True,
        **options: object,
    ) -> Any:  # noqa: ANN401 - whatever the filesystem returns
        """Call a method of the filesystem, on remote ones again and again until it answers or the time is over."""
        if self.is_local:
            return method(*arguments, **options)
        begun, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            if has_timeout and self.fs.async_impl:
                options["timeout"] = max(begun + within_s - time.monotonic(), 1e-3)
            try:
                return method(*arguments, **options)
            except Exception as error:
                if isinstance(error, FINAL_ERRORS) or getattr(error, "errno", None) in _FINAL_NUMBERS:
                    raise
                from botocore.exceptions import NoCredentialsError

                if isinstance(error, NoCredentialsError):
                    within_s = min(within_s, _CREDENTIALS_SECONDS)
                if time.monotonic() + pause >= begun + within_s:
                    reason = str(error) or type(error).__name__
                    raise StorageUnavailableError(f"no answer within {within_s:.0f} s ({reason})", self.url) from error
            self._traffic.add("requests_repeated")
            time.sleep(pause)
            pause *= 2


def _written(info: Mapping[str, Any]) -> datetime:
    """When an object was last written, as the filesystem says it."""
    written = next((info[name] for name in ("LastModified", "mtime", "updated", "created") if name in info), 0.0)
    return datetime.fromtimestamp(written, UTC) if isinstance(written, int | float) else written


def _create_local(target: Path, content: bytes) -> None:
    _make_folder(target.parent)
    temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents durably: each new name is written to disk with the folder that holds it."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # The new name itself must survive a power cut, not only the bytes behind it.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
