"""Build the user's turn of the prompt, which follows the video.

Changes require another `prompt` version in `pipeline/store/fingerprint.py`.
"""

import string
from collections.abc import Sequence

_CHOOSE = "Answer with the option's letter from the given choices directly."


def question_prompt(question: str, options: Sequence[str] | None) -> str:
    """Return the question and its options in the format of video benchmarks (lmms-eval's multiple-choice prompt).

    Args:
        question: The rendered question.
        options: Up to 26 choices, lettered from A; None for an open question.
    """
    if not options:
        return question
    lines = [f"{letter}. {option}" for letter, option in zip(option_letters(options), options, strict=True)]
    return "\n".join([question, *lines, _CHOOSE])


def option_letters(options: Sequence[str]) -> tuple[str, ...]:
    """Return the letters that the prompt gives to up to 26 options, from A."""
    return tuple(string.ascii_uppercase[: len(options)])
