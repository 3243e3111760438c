"""Bounds of time and size for chat templates, checked while a template is filled in."""

import re
import time
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2.utils import Namespace

MAX_SECONDS = 2.0
"""CPU time of the thread that fills in a template, which usually takes a thousandth of it."""
MAX_CHARACTERS = 1 << 22
"""Of a template, of any text that it makes, and of all that it writes; an item of a list counts as `_ITEM`."""
_ITEM = 16
_MAX_BITS = 4096
# Filters that search a text in more than linear time.
_SLOW = frozenset({"urlize", "wordwrap", "striptags", "pprint"})
_MAX_SLOW = 100_000
# Filters and methods that add as many characters as a number says: once, or to each line, tab or item.
_WIDENS = frozenset({"center", "ljust", "rjust", "zfill", "slice", "batch", "round"})
_MARKS = {"indent": "\n", "expandtabs": "\t"}
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*\d{5}|\{[^{}]*\d{5}|%[^%a-zA-Z]*\*|\{[^{}]*\{")

_deadline: ContextVar[float] = ContextVar("deadline")
_written: ContextVar[list[int]] = ContextVar("written")


class TemplateBoundError(Exception):
    """A template takes too long, or makes something too large."""


@contextmanager
def bounds() -> Iterator[None]:
    """Start to count the time and the text of one template, which is filled in inside the block."""
    deadline = _deadline.set(time.thread_time() + MAX_SECONDS)
    total = _written.set([0])
    try:
        yield
    finally:
        _deadline.reset(deadline)
        _written.reset(total)


def spend() -> None:
    """Check the time. Every function here raises `TemplateBoundError` when a bound is exceeded."""
    if time.thread_time() > _deadline.get():
        raise TemplateBoundError(f"it takes more than {MAX_SECONDS:g} s of CPU time")


def check_size(size: int) -> None:
    """Check a number of characters, of which an item of a list counts as `_ITEM`."""
    if size > MAX_CHARACTERS:
        raise TemplateBoundError(f"it makes a text or list of more than {MAX_CHARACTERS:,} characters")


def check_bits(bits: int) -> None:
    """Check the length of an integer."""
    if bits > _MAX_BITS:
        raise TemplateBoundError(f"it makes an integer of more than {_MAX_BITS} bits")


def size_of(value: object) -> int:
    """Return the characters and items of a value, of lists and mappings with what is in them, up to the bound."""
    size, waiting = 0, [value]
    while waiting and size <= MAX_CHARACTERS:
        inner = waiting.pop()
        if isinstance(inner, str | bytes | bytearray):
            size += len(inner)
        elif isinstance(inner, int):
            check_bits(inner.bit_length())
            size += 1
        elif isinstance(inner, Mapping):
            size += _ITEM * (1 + len(inner))
            waiting += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list | tuple | set | frozenset | KeysView | ValuesView | ItemsView):
            size += _ITEM * (1 + len(inner))
            waiting += inner
        elif isinstance(inner, Namespace):
            waiting.append(object.__getattribute__(inner, "_Namespace__attrs"))
        elif isinstance(inner, range):
            size += len(inner)
        else:
            size += 1
    return size


def bounded(value: Any) -> Any:  # noqa: ANN401 - any value of a template
    """Return the value itself, after checking time and size."""
    spend()
    check_size(size_of(value))
    return value


def written(value: Any) -> Any:  # noqa: ANN401 - any value of a template
    """Return the value itself, after adding it to what the template has written."""
    spend()
    total = _written.get()
    total[0] += size_of(value)
    check_size(total[0])
    return value


def counted(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items, and check the time before each."""
    for item in items:
        spend()
        yield item


def concatenated(parts: list[Any]) -> str:
    """Return the parts as one text, after checking its size."""
    check_size(size_of(parts))
    return "".join(map(str, parts))


def check_call(name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Check a call of a filter or method, of which the first argument is the text or list, before it is made."""
    values = [*arguments, *options.values()]
    size = size_of(values)
    check_size(size)
    numbers = [abs(value) for value in values if isinstance(value, int)]
    first = arguments[0] if arguments else None
    if name in _SLOW and size > _MAX_SLOW:
        raise TemplateBoundError(f"{name} of more than {_MAX_SLOW:,} characters")
    if name in _WIDENS:
        check_size(max(numbers, default=0))
    elif name == "tojson":
        check_size(size * max(numbers, default=0))
    elif name in _MARKS and isinstance(first, str):
        check_size(size + (1 + first.count(_MARKS[name])) * max([8, *numbers]))
    elif name == "replace" and isinstance(first, str) and len(values) > 2:
        old, new = str(values[1]), str(values[2])
        check_size(len(first) + first.count(old) * max(0, len(new) - len(old)))
    elif name in ("format", "format_map") and isinstance(first, str):
        check_format(first, values[1:])
    elif name == "join" and len(values) > 1 and all(isinstance(value, str | list | tuple) for value in values[:2]):
        # Of the filter the list is first, of the method the separator is.
        check_size(size + len(values[0]) * len(values[1]))


def check_format(text: str, values: Iterable[Any]) -> None:
    """Check the widths of a format, as in ``%9d``, which may be among the values."""
    if (found := _WIDE_FORMAT.search(text)) is None:
        return
    has_width = found[0][-1] not in "*{"
    if has_width or any(isinstance(value, int) and abs(value) > _MAX_SLOW for value in values):
        raise TemplateBoundError(f"it formats a text with a width of more than {_MAX_SLOW:,}")
