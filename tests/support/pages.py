"""The pages of the documentation, and what they show between backticks."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
PAGES = sorted((README, *(ROOT / "docs").glob("*.md")))


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages; "" is that of a bare fence."""
    # All of them are matched: between two, a fence that closes looks like one that opens.
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for language, text in found if language in languages]


def spans(page: Path) -> list[str]:
    """What stands between backticks in the text, each on one line."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
