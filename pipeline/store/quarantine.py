"""Move damaged objects to `quarantine/`, where no reader looks. Nothing is deleted."""

from collections.abc import Callable

from pipeline.store.storage import Storage

FOLDER = "quarantine"


def quarantine(
    root: Storage, name: str, content: bytes, just_before: Callable[[], object] = lambda: None
) -> str | None:
    """Move a damaged object to `quarantine/`, under its own name; a second one of that name gets a number.

    If the process dies on the way, the object is in both places, and the same call completes the move.

    Args:
        root: The output or the cache.
        name: The object.
        content: Its damaged bytes.
        just_before: Called before each write and before the removal; raises if there must be none.

    Returns:
        The new name; None if the object has gone or changed since it was read, so that nothing was moved.
    """
    try:
        if root.read(name) != content:
            return None
    except FileNotFoundError:
        return None
    target, number = f"{FOLDER}/{name}", 1
    while not root.create(target, content, just_before=just_before):
        number += 1
        target = f"{FOLDER}/{name}.{number}"
    just_before()
    try:
        root.remove(name)
    except FileNotFoundError:
        return None  # another process has moved it
    return target
