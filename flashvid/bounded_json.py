"""Read JSON that others wrote, within bounds that the code after it can rely on."""

import json
from typing import Any

MAX_DEPTH = 100
"""Lists and objects inside of each other; code that walks through the content may recurse."""
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
_LONGEST_INTEGER = 20  # digits of 64 bits


def parse_json(text: str | bytes, *, any_integer: bool = False) -> Any:  # noqa: ANN401 - any JSON value
    """Return the content of a JSON text.

    Args:
        text: The text.
        any_integer: Whether to accept integers beyond 64 bits, which some published models have.

    Raises:
        ValueError: the text is not JSON or not UTF-8, nests deeper than `MAX_DEPTH`, or has an integer beyond 64 bits.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        content = (_OF_ANY_INTEGER if any_integer else _OF_64_BITS).decode(text)
    except RecursionError:
        raise ValueError(f"lists and objects nest deeper than {MAX_DEPTH} levels") from None
    check_depth(content)
    return content


def check_depth(content: object) -> None:
    """Check that lists and objects nest at most `MAX_DEPTH` levels deep.

    Raises:
        ValueError: they nest deeper.
    """
    level = [content]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, list | dict)
            for inner in (value.values() if isinstance(value, dict) else value)
            if isinstance(inner, list | dict)
        ]
        if not level:
            return
    raise ValueError(f"lists and objects nest deeper than {MAX_DEPTH} levels")


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _LONGEST_INTEGER or not _LEAST <= int(digits) <= _MOST:
        raise ValueError(f"the integer {digits[:_LONGEST_INTEGER]}... is beyond 64 bits")
    return int(digits)


# Made once: `json.loads` with options makes one for each text, and a table has a text for each row.
_OF_64_BITS, _OF_ANY_INTEGER = json.JSONDecoder(parse_int=_integer), json.JSONDecoder()
