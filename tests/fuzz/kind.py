"""What one kind of fuzzing is made of, and what may come of an example."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from flashvid.errors import FlashVidError


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        strategy: Draws examples.
        check: Uses an example as a command would; raises anything but a `FlashVidError` if it is a finding.
        seeds: Examples that were findings once, or that must not become any.
    """

    strategy: st.SearchStrategy[Any]
    check: Callable[[Any], object]
    seeds: tuple[Any, ...] = ()


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for one example."""
    path = Path(tempfile.mkdtemp(prefix="flashvid-fuzz-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def refused(action: Callable[[], object]) -> object | None:
    """The result of an action; None if it was refused by one of our errors, with one message."""
    try:
        return action()
    except FlashVidError as error:
        assert error.message
        assert "Traceback" not in error.message
        return None


def mutated(content: bytes) -> st.SearchStrategy[bytes]:
    """Content with a few flipped, replaced, removed or repeated bytes, or cut off."""
    place = st.integers(0, max(len(content) - 1, 0))
    change = st.tuples(place, st.sampled_from(["flip", "replace", "remove", "repeat", "cut"]), st.integers(0, 255))
    return st.lists(change, min_size=1, max_size=4).map(lambda changes: _apply(content, changes))


def _apply(content: bytes, changes: list[tuple[int, str, int]]) -> bytes:
    changed = bytearray(content)
    for place, what, value in changes:
        if place >= len(changed):
            continue
        if what == "flip":
            changed[place] ^= 1 << value % 8
        elif what == "replace":
            changed[place] = value
        elif what == "remove":
            del changed[place : place + 1 + value % 16]
        elif what == "repeat":
            changed[place:place] = changed[place : place + 1 + value % 16]
        else:
            del changed[place:]
    return bytes(changed)
