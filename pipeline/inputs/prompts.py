"""The user's turn of the prompt, as the model reads it after the video (`prompt` version of the fingerprint)."""

from __future__ import annotations

import string
from collections.abc import Sequence

_CHOOSE = "Answer with the option's letter from the given choices directly."


def question_prompt(question: str, options: Sequence[str] | None) -> str:
    """Question and options in the form common to video benchmarks (lmms-eval's multiple-choice prompt).

    Args:
        question: The rendered question.
        options: Up to 26 choices, lettered from A; None for an open question.
    """
    if not options:
        return question
    lines = [f"{letter}. {option}" for letter, option in zip(option_letters(options), options, strict=True)]
    return "\n".join([question, *lines, _CHOOSE])


def option_letters(options: Sequence[str]) -> tuple[str, ...]:
    """What the prompt asks the model to answer with: a letter for each of up to 26 choices, from A."""
    return tuple(string.ascii_uppercase[: len(options)])
