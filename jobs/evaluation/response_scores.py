"""The score of one answer: multiple choice by the letter that it means, open answers by their words."""

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

from flashvid.errors import ConfigurationError
from jobs.evaluation.letters import LetterRule
from pipeline.inputs.prompts import option_letters

# The letters that lmms-eval looks for if a question's text holds its options.
_LETTERS_IN_TEXT = tuple("ABCDEFGH")
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Score:
    """The score of an answer.

    Attributes:
        is_right: Whether it is the expected one.
        is_read: Whether it says which option it means; always for an open answer.
    """

    is_right: bool
    is_read: bool = True


def score(response: str, expected: str, options: Sequence[str] | None, rule: LetterRule) -> Score:
    """Score one answer.

    With options, the expected answer is one of them or its letter; the response means the letter that the rule finds,
    or else the option that it repeats. Without options, an expected answer that is one capital letter of A to H
    belongs to a question that has its options in its text. Everything else is an open answer, right if its words are
    the expected ones: case, punctuation, articles and white space do not count (as SQuAD's exact match).

    Args:
        response: The answer.
        expected: The expected answer.
        options: The question's options.
        rule: How letters are found.

    Raises:
        ConfigurationError: the expected answer is not one of the options.
    """
    if options:
        right, letters = expected_letter(expected, options), option_letters(options)
        meant = rule(response, letters) or _repeated(response, options)
        return Score(meant == right, meant is not None)
    if expected.strip() in _LETTERS_IN_TEXT:
        meant = rule(response, _LETTERS_IN_TEXT)
        return Score(meant == expected.strip(), meant is not None)
    return Score(plain_words(response) == plain_words(expected))


def expected_letter(expected: str, options: Sequence[str]) -> str:
    """Return the letter of the right option, given by its text or its letter. Raises ConfigurationError for neither."""
    letters = option_letters(options)
    if expected in options:
        return letters[list(options).index(expected)]
    if expected.strip() in letters:
        return expected.strip()
    raise ConfigurationError(f"the expected answer {expected!r} is neither an option of {list(options)} nor a letter")


def plain_words(text: str) -> str:
    """Return a text without case, punctuation, articles and extra white space."""
    return " ".join(_ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split())


def _repeated(response: str, options: Sequence[str]) -> str | None:
    """Return the letter of the one option that has the response's words."""
    texts, words = [plain_words(option) for option in options], plain_words(response)
    return option_letters(options)[texts.index(words)] if texts.count(words) == 1 else None
