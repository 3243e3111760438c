"""One folder on any fsspec URL, with the one write the guarantees need: exclusive, atomic creation.

Every object is written once under its final name and never changed. Locally that is a temporary file, fsync, and a
hard link (which fails if the name is taken); on object stores a conditional PUT.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from flashvid.errors import ConfigurationError

_TEMPORARY = ".uploading-"


def resolve(url: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URL and the path inside it (absolute for local files).

    Listings are never cached: they decide what work is left.
    """
    fs, path = (
        fsspec.core.url_to_fs(url, use_listings_cache=False, skip_instance_cache=True, **(storage_options or {}))
        if "://" in url
        else (LocalFileSystem(), str(Path(url).absolute()))
    )
    return fs, path


class Storage:
    """A root folder and the objects below it, named by relative POSIX paths."""

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.fs, self.root = resolve(url, storage_options)
        self.is_local = isinstance(self.fs, LocalFileSystem)
        if self.is_local and Path(self.root).is_file():
            raise ConfigurationError("is a file, not a folder", url)

    def path(self, name: str) -> str:
        """The filesystem's own path of an object."""
        return f"{self.root.rstrip('/')}/{name}"

    def create(self, name: str, content: bytes) -> bool:
        """Write an object under its final name in one atomic step, unless the name is taken.

        Returns:
            True if this call made the object, or the object that is there holds exactly these bytes (the lost
            reply of one's own PUT is no conflict); False if somebody else's object is there.
        """
        try:
            if self.is_local:
                _create_local(Path(self.path(name)), content)
            else:
                self.fs.pipe_file(self.path(name), content, mode="create")
        except OSError as error:
            # SeaweedFS's refusal reaches us as EINVAL, others' as FileExistsError.
            if not isinstance(error, FileExistsError) and error.errno != errno.EINVAL:
                raise
            if not self.exists(name):
                raise
            return self.read(name) == content
        return True

    def read(self, name: str) -> bytes:
        """The whole content of an object. Raises FileNotFoundError."""
        content: bytes = self.fs.cat_file(self.path(name))
        return content

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        return bool(self.fs.exists(self.path(name)))

    def has_folder(self, folder: str) -> bool:
        """Whether anything stands below a folder."""
        return bool(self.fs.isdir(self.path(folder)))

    def names(self, folder: str) -> list[str]:
        """Names, relative to the root, of all finished objects below a folder, sorted; [] if there is none."""
        try:
            found = self.fs.find(self.path(folder))
        except FileNotFoundError:
            return []
        prefix = self.root.rstrip("/") + "/"
        return sorted(path.removeprefix(prefix) for path in found if _TEMPORARY not in path)


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
