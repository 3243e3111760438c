"""Untrusted texts in a terminal: nothing acts, nothing is hidden, and JSON stays what it was."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.printable import printable, printable_json

# Invisible, but part of how scripts and emoji are written.
JOINERS = {"\u200c", "\u200d"}


def acts(character: str) -> bool:
    """By the Unicode database: control, format, surrogate, line and paragraph separators."""
    return unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} or (
        unicodedata.bidirectional(character) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    )


def test_every_character_that_acts_is_escaped() -> None:
    """Against the Unicode database, and the marks of direction, which it counts among the letters."""
    unseen = [chr(code) for code in range(0x110000) if acts(chr(code))] + ["\u200e", "\u200f", "\u061c", "\ufeff"]
    for character in unseen:
        assert printable(character).isascii(), hex(ord(character))
        assert printable(f"a{character}b", lines=True) == (
            f"a{character}b" if character in "\n\t" else f"a{printable(character)}b"
        )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x9b2J\x7f", r"\x9b2J\x7f"),
        ("gpj.\u202egnp", r"gpj.\u202egnp"),
        ("\u2028\u2029\x85", r"\u2028\u2029\x85"),
        ("\udc80\U000e0041", r"\udc80\U000e0041"),
        ("[red]ok[/red] :smile:", "[red]ok[/red] :smile:"),
        ("日本語 العربية हिन्दी 👩‍👩‍👧 é", "日本語 العربية हिन्दी 👩‍👩‍👧 é"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    """Escapes as Python writes them; text of any script as it is."""
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_any_text(text: str) -> None:
    """One line that can be encoded and in which nothing acts; JSON is read back as it was."""
    shown = printable(text)
    assert not any(acts(character) for character in shown)
    shown.encode()
    written = printable_json({"text": text})
    assert not any(acts(character) for character in written)
    assert json.loads(written) == {"text": text}
