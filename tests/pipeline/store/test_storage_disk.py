"""A local store on a disk that is full or read-only, on real disks of a megabyte."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem

from flashvid.errors import FatalError
from pipeline.errors import DISK_NUMBERS, DiskError
from pipeline.store.storage import Storage
from tests.support.full_disk import needs_mounts, on_small_disk

_CREATE = """
import sys
from pipeline.errors import DiskError
from pipeline.store.storage import Storage
storage = Storage(sys.argv[1])
try:
    storage.create("folder/object", bytes(int(sys.argv[2])))
except DiskError as error:
    print(error.kind, error, storage.names(""))
"""


class FailingDisk(LocalFileSystem):  # type: ignore[misc]
    """Every read fails with one error of the operating system."""

    cachable = False

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def _fail(self, path: str) -> None:
        raise OSError(self.number, os.strerror(self.number), path)

    def cat_file(self, path: str, *_: object, **__: object) -> bytes:
        """Fail."""
        self._fail(path)
        return b""

    def info(self, path: str, **_: object) -> dict[str, object]:
        """Fail."""
        self._fail(path)
        return {}

    def find(self, path: str, *_: object, **__: object) -> dict[str, object]:
        """Fail."""
        self._fail(path)
        return {}


@needs_mounts
@pytest.mark.parametrize(
    ("size", "is_read_only", "said"),
    [(2_000_000, False, "No space left on device"), (10, True, "Read-only file system")],
)
def test_a_disk_that_cannot_be_written_to(tmp_path: Path, size: int, is_read_only: bool, said: str) -> None:
    """One error that names the store and the cause; nothing is half written."""
    done = on_small_disk(tmp_path, sys.executable, "-c", _CREATE, str(tmp_path), str(size), read_only=is_read_only)
    assert done.stdout == f"fatal {tmp_path}: disk error: {said}; fix that, then run the same command again []\n", (
        done.stderr
    )


@pytest.mark.parametrize("number", sorted(DISK_NUMBERS), ids=errno.errorcode.get)
def test_a_failing_disk_is_not_an_empty_one(tmp_path: Path, number: int) -> None:
    """Neither an object nor a listing is taken for missing."""
    storage = Storage(str(tmp_path))
    storage.fs = FailingDisk(number)
    for call in (lambda: storage.read("a"), lambda: storage.exists("a"), lambda: storage.names("folder")):
        with pytest.raises(DiskError, match=os.strerror(number)) as raised:
            call()
        assert isinstance(raised.value, FatalError)


def test_other_errors_of_a_disk_are_as_they_were(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    storage.fs = FailingDisk(errno.EACCES)
    with pytest.raises(PermissionError):
        storage.read("a")
