"""Creates local files exclusively and durably: temporary file, fsync, and a hard link that fails if the name exists."""

import os
from collections.abc import Callable
from pathlib import Path


def create_durably(
    target: Path, temporary: Path, content: bytes, just_before: Callable[[], object] = lambda: None
) -> None:
    """Create a file in one atomic step that survives a power cut.

    Args:
        target: The file's path.
        temporary: A path in the same folder, which is written first and removed afterwards.
        content: All bytes of the file.
        just_before: Called before the file gets its name; raises if it must not.

    Raises:
        FileExistsError: the target exists.
    """
    _make_folder(target.parent)
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        just_before()
        os.link(temporary, target)
        _sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """Create a folder and its parents, and fsync the parent of each new one so that it survives a power cut."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in new:
        _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # The name of a new file must survive a power cut, not only its bytes.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
