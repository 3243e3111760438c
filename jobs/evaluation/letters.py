"""Which option a response means: the rules by which published accuracies were counted.

Each function reimplements the rule of lmms-eval 0.7.3 that it names, with one difference: where lmms-eval finds no
option and draws one at random, these find none, and the answer is wrong. So a score does not depend on luck.
"""

import re
from collections.abc import Callable, Mapping, Sequence

LetterRule = Callable[[str, Sequence[str]], str | None]
"""(response, letters of the options) to the letter it means; None if it means none."""

_ANNOUNCED = (
    *(f"{which}answer is" for which in ("the ", "", "the correct ", "correct ", "the best ", "best ", "my ")),
    *(f"{which}{what} is" for what in ("option", "choice") for which in ("the correct ", "correct ")),
    *("the best option is", "best option is", "the choice is", "choice is", "my choice is"),
    *("i choose", "i select", "i pick", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_LEFT_OUT = (
    *(f"The {what} is" for what in ("best answer", "correct answer", "answer")),
    *("The answer", "The best option is", "The correct option is", "Best answer:", "Best option:"),
)
_MVBENCH_MARKS = ';/[]"{}()=+\\_-><@`,?!'


def ranked(response: str, letters: Sequence[str]) -> str | None:
    """Return the letter that stands out most (tasks/_task_utils/mcq_extract.py: VideoMME, MLVU).

    In this order: a letter at the beginning, at the end, after "the answer is" and similar phrases, as "(A)", "A.",
    "A:", "A)", "A ", or anywhere. Of several matches of one kind the last one counts.
    """
    text = _without(response.strip(), ",.!?;:'\"").strip()
    if not text:
        return None
    for begins in (True, False):
        edge = text[0] if begins else text[-1]
        neighbour = text[1:2] if begins else text[-2:-1]
        if edge in letters and not neighbour.isalpha():
            return edge
    padded = f" {text} "
    announced = [
        (padded.find(letter, padded.lower().find(phrase) + len(phrase)), letter)
        for phrase in _ANNOUNCED
        if phrase in padded.lower()
        for letter in letters
    ]
    by_shape = (
        [(padded.rfind(shape.format(letter)), letter) for letter in letters]
        for shape in ("({})", "{}.", "{}:", "{})", "{} ", "{}")
    )
    for candidates in (announced, *by_shape):
        place, letter = max(candidates, default=(-1, ""))
        if place >= 0:
            return letter
    return None


def ranked_of_four(response: str, letters: Sequence[str]) -> str | None:
    """Apply `ranked` to the letters A to D only, also if there are more options (as VideoMME and MLVU do)."""
    return ranked(response, [letter for letter in letters if letter in "ABCD"])


def earliest(response: str, letters: Sequence[str]) -> str | None:
    """Return the letter as "(A)", "A " or "A." whose last occurrence is the earliest (tasks/egoschema/utils.py).

    lmms-eval also looks for an option's text, but with its letter in front, where the letter is found first.
    """
    padded = f" {_without(response, ',.!?;:' + chr(39))} "
    places = [
        (padded.rfind(shape.format(letter)), order, letter)
        for order, shape in enumerate(("({})", "{} ", "{}."))
        for letter in letters
        if shape.format(letter) in padded
    ]
    return min(places)[2] if places else None


def first(response: str, letters: Sequence[str]) -> str | None:
    """Return the first capital letter of A to E, without "The answer is" etc. (tasks/longvideobench/utils.py)."""
    text = response.strip()
    for phrase in _LEFT_OUT:
        text = text.replace(phrase, "")
    found = re.search("[ABCDE]", text)
    return found[0] if found and found[0] in letters else None


def any_case(response: str, letters: Sequence[str]) -> str | None:
    """Return the first letter of A to E that stands alone, in either case (tasks/mvbench/utils.py).

    Before that, punctuation between a word and a space is removed, and other punctuation becomes a space.
    """
    whole = re.match(r"([A-E])\.\s*.+$", response.strip(), re.IGNORECASE)
    text = response.replace("\n", " ").replace("\t", " ").strip()
    grouped = re.search(r"\d,\d", text) is not None
    spaced = text
    for mark in _MVBENCH_MARKS:
        spaced = spaced.replace(mark, "" if grouped or f"{mark} " in text or f" {mark}" in text else " ")
    found = whole or re.search(r"\b([A-E])\b", re.sub(r"\.(?!\d)", "", spaced), re.IGNORECASE)
    return found[1].upper() if found and found[1].upper() in letters else None


def _without(text: str, marks: str) -> str:
    """Strip each mark from both ends, one after the other."""
    for mark in marks:
        text = text.strip(mark)
    return text


LETTER_RULES: Mapping[str, LetterRule] = {
    "ranked": ranked,
    "ranked-of-four": ranked_of_four,
    "earliest": earliest,
    "first": first,
    "any-case": any_case,
}
