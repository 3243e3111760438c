"""Show untrusted texts in a terminal or a log: characters that change what else is shown are written as escapes."""

import json
import re

# Control characters of C0, DEL and C1; marks, overrides and isolates of the writing direction; separators of lines and
# paragraphs; invisible characters and tags; halves of surrogate pairs, which can't be encoded.
_HIDDEN = (
    "\\x7f-\\x9f\\xad\\u061c\\u115f\\u1160\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufeff"
    "\\uffa0\\ufff9-\\ufffb\\ud800-\\udfff\\U000e0000-\\U000e007f"
)
_IN_LINE = re.compile(f"[\\x00-\\x1f{_HIDDEN}]")
_IN_LINES = re.compile(f"[\\x00-\\x08\\x0b-\\x1f{_HIDDEN}]")


def printable(text: object, *, lines: bool = False) -> str:
    r"""Return a text in which characters that act on a terminal are visible escapes, such as ``\x1b`` and ``\u202e``.

    Args:
        text: The text; of another object, its `str`.
        lines: Whether to keep line breaks and tabs, for a message that was formatted with them.
    """
    return (_IN_LINES if lines else _IN_LINE).sub(_escape, str(text))


def printable_json(content: object, *, indent: int | None = None) -> str:
    """Return JSON that is safe to print: it parses to the same content, and other scripts stay readable.

    Raises:
        ValueError: a number is NaN or infinite, which is not JSON.
    """
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    return _IN_LINES.sub(_escape_json, text)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escape_json(found: re.Match[str]) -> str:
    return json.dumps(found[0])[1:-1]
