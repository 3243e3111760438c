"""Read and write objects in one folder of any fsspec URL. The only kind of write is exclusive, atomic creation.

Every object is written once, under its final name, and never changed (docs/guarantees.md, guarantee 1). Locally, that
is a temporary file, an fsync and a hard link, which fails if the name is taken. On object stores, it is a conditional
PUT (`If-None-Match`). A test before the first write detects a store without conditional PUT; there, each name is only
checked before it is written.
"""

import errno
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa

from flashvid.errors import ConfigurationError
from pipeline.errors import DISK_NUMBERS, DamagedObjectError, DiskError
from pipeline.store.calls import FINAL_NUMBERS, StoreCalls
from pipeline.store.local_files import create_durably
from pipeline.store.parquet import DamagedParquetError, read_columns

# Limit for one object, all tries together. A write under the lease must end before another host may take over, so this
# is less than half of `LEASE_SECONDS` in pipeline/store/lease.py.
WRITE_SECONDS = 25.0
_SCAN_THREADS = 16
_TEMPORARY = ".uploading-"


class Storage(StoreCalls):
    """A root folder and the objects below it, named by relative POSIX paths.

    On a remote store, every method repeats a request that got no answer, and raises `StorageUnavailableError` if none
    comes in time. A local disk that is full, read-only or failing is a `DiskError`.

    Args:
        url: Path or URL of the root folder.
        storage_options: Options for fsspec.

    Raises:
        ConfigurationError: the URL can't be opened, or names a local file.
    """

    def create(
        self,
        name: str,
        content: bytes,
        *,
        within_s: float = WRITE_SECONDS,
        just_before: Callable[[], object] = lambda: None,
    ) -> bool:
        """Write an object under its final name in one atomic step, unless the name is taken.

        Args:
            name: The object.
            content: All of it.
            within_s: Limit in seconds on a remote store.
            just_before: Called before the object gets its name, or before each request that writes it; raises a
                `FlashVidError` if it must not be written.

        Returns:
            True if this call created the object, or if the existing object has exactly these bytes (so a lost reply to
            this process's own PUT is not a conflict). False if another object has the name.

        Raises:
            StorageUnavailableError: no answer in time. The object may exist, or may still appear.
        """
        self._traffic.add("bytes_written", len(content))
        if self.is_exclusive:
            return self._create(name, content, within_s, just_before)
        if not self.exists(name):
            self._call(self._put(just_before), self.path(name), content, within_s=within_s)
        return self.read(name) == content

    def add(self, name: str, content: bytes, just_before: Callable[[], object] = lambda: None) -> None:
        """Write an object under a name that no other writer uses; arguments as in `create`.

        Raises:
            FileExistsError: the name is taken by other bytes.
            StorageUnavailableError: see `create`.
        """
        if not self.create(name, content, just_before=just_before):
            raise FileExistsError(f"{name} exists with other content: another process wrote it")

    @cached_property
    def is_exclusive(self) -> bool:
        """Return whether the store itself refuses to overwrite an object; the first call tests it with one object."""
        if self.is_local:
            return True
        name = f"{_TEMPORARY}{uuid.uuid4().hex}"
        try:
            return self._create(name, b"first", WRITE_SECONDS) and not self._create(name, b"second", WRITE_SECONDS)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, NotImplementedError) or error.errno in FINAL_NUMBERS:
                return False  # the store does not support conditional writes
            raise
        finally:
            with suppress(FileNotFoundError, PermissionError):
                self.remove(name)

    def read(self, name: str) -> bytes:
        """Return the whole content of an object.

        Raises:
            FileNotFoundError: there is no such object.
        """
        content: bytes = self._call(self.fs.cat_file, self.path(name))
        self._traffic.add("bytes_read", len(content))
        return content

    def fetch(self, name: str, path: str, *, within_s: float) -> None:
        """Copy an object to a local file.

        Args:
            name: The object.
            path: The local file; overwritten.
            within_s: Limit in seconds on a remote store.

        Raises:
            FileNotFoundError: there is no such object.
        """
        self._call(self.fs.get_file, self.path(name), path, within_s=within_s)

    def scan(self, names: Sequence[str], schema: pa.Schema, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some columns of Parquet objects, one table per object, in order. Objects are read in parallel.

        Args:
            names: The objects.
            schema: Types of the columns; a column that an object lacks is null.
            columns: The columns to read; no others are read.

        Raises:
            FileNotFoundError: an object is missing.
            DamagedObjectError: an object is not what was written.
        """

        def read(name: str) -> pa.Table:
            with self.fs.open(self.path(name), "rb") as file:
                return read_columns(file, schema, columns)

        def read_checked(name: str) -> pa.Table:
            # Arrow can't tell a failing connection from a damaged file, so the whole object decides.
            with suppress(DamagedParquetError):
                return self._call(read, name, has_timeout=False)
            content = self.read(name)
            try:
                return read_columns(BytesIO(content), schema, columns)
            except DamagedParquetError as error:
                raise DamagedObjectError(str(error), self.url, name) from error

        at_once = self.at_once(_SCAN_THREADS)
        with ThreadPoolExecutor(at_once) as pool:
            # Read in groups, because tables that are read ahead stay in memory.
            for begin in range(0, len(names), 4 * at_once):
                some = names[begin : begin + 4 * at_once]
                yield from pool.map(read_checked, some)

    def table(self, names: Sequence[str], schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
        """Return some columns of Parquet objects as one table, with the rows of each object in order; see `scan`."""
        chosen = pa.schema([schema.field(name) for name in columns])
        # Not chosen.empty_table(), which imports pandas.
        empty = pa.Table.from_arrays([pa.nulls(0, field.type) for field in chosen], schema=chosen)
        return pa.concat_tables([empty, *self.scan(names, schema, columns)])

    def at_once(self, most: int) -> int:
        """Return how many requests threads may send in parallel: `most`, or 1 if the filesystem is not concurrent."""
        return most if self.is_concurrent else 1

    def take_traffic(self) -> dict[str, int]:
        """Return `bytes_written`, `bytes_read` and `requests_repeated` since the last call. `scan` is not counted."""
        return self._traffic.take()

    def exists(self, name: str) -> bool:
        """Return whether an object has this name."""
        return self._kind(name) not in (None, "directory")

    def has_folder(self, folder: str) -> bool:
        """Return whether a folder exists. On an object store, it exists if it holds an object."""
        return self._kind(folder) == "directory"

    def _kind(self, name: str) -> str | None:
        # Not fs.exists: most filesystems return False for any error.
        try:
            return str(self._call(self.fs.info, self.path(name))["type"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, folder: str) -> list[str]:
        """Return the names, relative to the root, of all finished objects below a folder, sorted."""
        return sorted(name for name in self._find(folder) if _TEMPORARY not in name)

    def by_folder(self, folder: str) -> Mapping[str, list[str]]:
        """Return the `names` below a folder, grouped by the folder that holds them directly."""
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self.names(folder):
            groups[name.rpartition("/")[0]].append(name)
        return groups

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the size in bytes of every finished object below a folder, by name."""
        return {name: size for name, (size, _) in self.dated(folder).items()}

    def dated(self, folder: str) -> dict[str, tuple[int, datetime]]:
        """Return size in bytes and time of the write of every finished object below a folder, by name."""
        found = sorted(self._find(folder).items())
        return {name: (info["size"], _written(info)) for name, info in found if _TEMPORARY not in name}

    def now(self) -> datetime:
        """Return the time of the store's clock, by writing and removing a temporary object."""
        name = f"{_TEMPORARY}{uuid.uuid4().hex}"
        self._create(name, b"now", WRITE_SECONDS)
        try:
            return self.written(name)
        finally:
            self.remove(name)

    def written(self, name: str) -> datetime:
        """Return when an object was written, by the store's clock.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return _written(self._call(self.fs.info, self.path(name)))

    def temporary_objects(self) -> dict[str, tuple[int, datetime]]:
        """Return size in bytes and time of the last write of every temporary file of a writer, by name."""
        found = {name: info for name, info in self._find("").items() if _TEMPORARY in name}
        return {name: (info["size"], _written(info)) for name, info in found.items()}

    def remove(self, name: str) -> None:
        """Remove an object. Only care commands and the test of `is_exclusive` may call this.

        Raises:
            FileNotFoundError: there is no such object.
        """
        self._call(self.fs.rm_file, self.path(name))

    def _find(self, folder: str) -> dict[str, Mapping[str, Any]]:
        try:
            found = self._call(self.fs.find, self.path(folder).rstrip("/"), detail=True)
        except FileNotFoundError:
            return {}
        prefix = self.root.rstrip("/") + "/"
        # SeaweedFS keeps and lists a folder after its last object is removed.
        return {path.removeprefix(prefix): info for path, info in found.items() if info["type"] != "directory"}

    def _put(self, just_before: Callable[[], object]) -> Callable[..., object]:
        def put(*arguments: object, **options: object) -> object:
            just_before()
            return self.fs.pipe_file(*arguments, **options)

        return put

    def _create(
        self, name: str, content: bytes, within_s: float, just_before: Callable[[], object] = lambda: None
    ) -> bool:
        try:
            if self.is_local:
                target = Path(self.path(name))
                create_durably(target, target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}"), content, just_before)
            else:
                self._call(self._put(just_before), self.path(name), content, mode="create", within_s=within_s)
        except FileNotFoundError as error:
            if self.is_local:
                raise
            # Object stores need no folders, so the missing thing is the bucket.
            raise ConfigurationError(f"can't be written to: {error}", self.url) from None
        except OSError as error:
            if self.is_local and error.errno in DISK_NUMBERS:
                raise DiskError.of(error, self.url) from error
            # A taken name arrives as EINVAL from SeaweedFS and as FileExistsError from other stores.
            if not isinstance(error, FileExistsError) and error.errno != errno.EINVAL:
                raise
            if not self.exists(name):
                raise
            return self.read(name) == content
        return True


def _written(info: Mapping[str, Any]) -> datetime:
    """Return when an object was last written, from the `info` of its filesystem; 1970 if that has no time."""
    written = next((info[name] for name in ("LastModified", "mtime", "updated", "created") if name in info), 0.0)
    return datetime.fromtimestamp(written, UTC) if isinstance(written, int | float) else written
