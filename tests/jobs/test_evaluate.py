"""Scores by hand: what is right, what is unread, what is missing, by category and against another run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from flashvid.errors import ConfigurationError
from jobs.cli.main import app
from jobs.evaluation.accuracy import Item, compare, evaluate
from jobs.evaluation.letters import LETTER_RULES
from jobs.evaluation.response_scores import plain_words, score
from pipeline.config import JobConfig
from pipeline.errors import WorkerDiedError
from tests.support.outputs import make_output

# What lmms-eval 0.7.3 makes of each (None: it draws or says ""); 200,000 random texts showed no difference either.
LMMS_EVAL = {
    "B": {"ranked": "B", "earliest": "B", "first": "B", "any-case": "B"},
    "(C) a dog": {"ranked": "C", "earliest": "C", "first": "C", "any-case": "C"},
    "The best answer is: D.": {"ranked": "D", "earliest": "D", "first": "D", "any-case": "D"},
    "Answer: B": {"ranked": "B", "earliest": "B", "first": "A", "any-case": "B"},
    "A man, so the answer is C, of course": {"ranked": "A", "earliest": "A", "first": "A", "any-case": "A"},
    "It is either A. or B.": {"ranked": "B", "earliest": "A", "first": "A", "any-case": "A"},
    "a dog": {"ranked": None, "earliest": None, "first": None, "any-case": "A"},
    "Because": {"ranked": "B", "earliest": None, "first": "B", "any-case": None},
    "": {"ranked": None, "earliest": None, "first": None, "any-case": None},
}


@pytest.mark.parametrize("response", LMMS_EVAL)
def test_letters_are_those_of_lmms_eval(response: str) -> None:
    """Its oddities included: "Answer" holds an A."""
    found = {name: LETTER_RULES[name](response, list("ABCDE")) for name in LMMS_EVAL[response]}
    assert found == LMMS_EVAL[response]


@pytest.mark.parametrize(
    ("response", "of_four", "of_eight"),
    [("-B- rather than H", "B", "H"), ("Everything", None, "E"), ("E.", None, "E"), ("D: a Horse", "D", "D")],
)
def test_where_four_letters_are_asked_for(response: str, of_four: str | None, of_eight: str | None) -> None:
    """As lmms-eval 0.7.3's `extract_mcq_answer` with A to D, as VideoMME and MLVU call it, and with its A to H."""
    letters = list("ABCDEFGH")
    assert LETTER_RULES["ranked-of-four"](response, letters) == of_four
    assert LETTER_RULES["ranked"](response, letters) == of_eight


@pytest.mark.parametrize(
    ("response", "expected", "options", "right", "read"),
    [
        ("B", "blue", ("red", "blue"), True, True),
        ("(A) red", "blue", ("red", "blue"), False, True),
        ("Blue!", "blue", ("red", "blue"), True, True),
        ("none of them", "blue", ("red", "blue"), False, False),
        ("B", "B", ("red", "blue"), True, True),
        # The text of an option comes before the letter of another.
        ("B", "A", ("B", "A"), True, True),
        ("C.", "C", None, True, True),
        ("I can't say", "C", None, False, False),
        ("The red disc.", "red disc", None, True, True),
        ("a red disc and a box", "red disc", None, False, True),
        ("", "red disc", None, False, True),
    ],
)
def test_one_answer(response: str, expected: str, options: tuple[str, ...] | None, right: bool, read: bool) -> None:
    """With options by letter or text; with options in the question's text; open ones by their words."""
    found = score(response, expected, options, LETTER_RULES["ranked"])
    assert (found.is_right, found.is_read) == (right, read)


def test_an_expected_answer_that_is_no_option_is_refused() -> None:
    """A wrong label would otherwise be a wrong answer."""
    with pytest.raises(ConfigurationError, match="'green' is neither an option of"):
        score("A", "green", ("red", "blue"), LETTER_RULES["ranked"])
    assert plain_words("The  Cat's\n hat") == "cats hat"


def items(rights: str, categories: str = "") -> list[Item]:
    """One question of each video: + right, - wrong, ? without an answer."""
    meaning = {"+": True, "-": False, "?": None}
    return [
        Item(f"v{number}", "q", meaning[mark], categories={"kind": categories[number]} if categories else {})
        for number, mark in enumerate(rights)
    ]


def test_accuracy_by_hand() -> None:
    """6 of 10 with one unanswered; left out 6 of 9; a mean over categories of unequal size counts each the same."""
    found = evaluate(items("++++++---?", "aaaaaaaabb"))
    assert (found.overall.questions, found.overall.right, found.unanswered) == (10, 6, 1)
    assert found.overall.accuracy is not None
    assert found.overall.accuracy.value == 0.6
    # Of ten independent questions: near the binomial's 95 %, 0.6 +- 1.96 * 0.155.
    assert found.overall.accuracy.low == pytest.approx(0.3, abs=0.11)
    assert found.overall.accuracy.high == pytest.approx(0.9, abs=0.11)
    assert {value: (each.right, each.questions) for value, each in found.by_category["kind"].items()} == {
        "a": (6, 8),
        "b": (0, 2),
    }
    assert found.mean_over["kind"] == pytest.approx((6 / 8 + 0) / 2)
    left_out = evaluate(items("++++++---?"), "left-out")
    assert (left_out.overall.questions, left_out.overall.right, left_out.unanswered) == (9, 6, 1)
    assert evaluate(items("??"), "left-out").overall.accuracy is None


def test_questions_of_one_video_are_drawn_together() -> None:
    """A hundred questions about two videos are two observations: any resample has none, one or both right."""
    same = [Item(f"v{number % 2}", str(number), number % 2 == 0) for number in range(100)]
    overall = evaluate(same).overall.accuracy
    assert overall is not None
    assert (overall.value, overall.low, overall.high) == (0.5, 0.0, 1.0)


def test_pairs_are_compared_on_what_both_have() -> None:
    """Order does not matter; a question of one run only does not count."""
    first, other = items("++-+-+++"), [*reversed(items("+--+-+-+")), Item("elsewhere", "q", True)]
    found = compare(first, other)
    assert (found.questions, found.only_first, found.only_other) == (8, 2, 0)
    assert (found.accuracy, found.other_accuracy) == (0.75, 0.5)
    assert found.difference is not None
    assert found.difference.value == 0.25
    assert 0.0 <= found.difference.low < 0.25 < found.difference.high <= 1.0
    # Paired: narrower than two independent intervals would be.
    rng = np.random.default_rng(0)
    resampled = rng.integers(8, size=(4000, 8))
    expected = np.percentile(np.array([0, 1, 0, 0, 0, 0, 1, 0])[resampled].mean(axis=1), (2.5, 97.5))
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(expected), abs=0.126)
    assert compare(first, [Item("elsewhere", "q", True)]).difference is None


def job(folder: Path, output: str = "output", **settings: Any) -> JobConfig:
    """Four videos, that nobody reads, and two questions of each."""
    (folder / "videos.csv").write_text(
        "video_id,video_path,length\n"
        + "".join(f"{name},{name}.mp4,{size}\n" for name, size in zip("abcd", "ssll", strict=True))
    )
    for name in "abcd":
        # Not again: a file that was written again is another source.
        if not (folder / f"{name}.mp4").exists():
            (folder / f"{name}.mp4").write_bytes(b"")
    questions = [
        {
            "question_id": "colour",
            "question": "Which?",
            "options": ["red", "blue"],
            "answer": "blue",
            "category": "see",
        },
        {"question_id": "count", "question": "How many?", "answer": "two", "category": "count"},
        {"question_id": "open", "question": "What happens?"},
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return JobConfig.model_validate(
        {
            "videos": str(folder / "videos.csv"),
            "questions": str(folder / "questions.jsonl"),
            "output": str(folder / output),
            "model": {"name": "tiny-random"},
            **settings,
        }
    )


def evaluated(*arguments: str | Path) -> dict[str, Any]:
    """What `flashvid evaluate --json` prints."""
    done = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--json"])
    assert done.exception is None, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("window_s", [None, 60.0])
def test_a_runs_answers(tmp_path: Path, window_s: float | None) -> None:
    """By category of the questions and column of the videos; failures are no answers; against another output.

    Windows are counted as they were answered or failed: here each video is one.
    """

    def respond(clip: Any, text: str) -> str | Exception:
        if clip.video_id == "d":
            return WorkerDiedError("gone")
        return {"Which?": "B" if clip.video_id != "a" else "no idea", "How many?": "Two."}.get(text, "whatever")

    make_output(job(tmp_path, window_s=window_s), respond, encode=False)
    found = evaluated(tmp_path / "output", "--by", "category", "--by", "length")
    assert (found["overall"]["questions"], found["overall"]["right"]) == (8, 5)
    assert (found["unanswered"], found["unread"]) == (2, 1)
    counts = {
        (name, value): (each["right"], each["questions"])
        for name, values in found["by_category"].items()
        for value, each in values.items()
    }
    assert counts == {
        ("category", "see"): (2, 4),
        ("category", "count"): (3, 4),
        ("length", "s"): (3, 4),
        ("length", "l"): (2, 4),
    }
    assert found["mean_over"] == {"category": 0.625, "length": 0.625}
    assert evaluated(tmp_path / "output", "--unanswered", "left-out")["overall"]["questions"] == 6
    assert evaluated(tmp_path / "output", "--answered-only")["overall"]["questions"] == 6

    make_output(
        job(tmp_path, "other", window_s=window_s), lambda _, text: "A" if text == "Which?" else "two", encode=False
    )
    against = evaluated(tmp_path / "output", "--against", tmp_path / "other")["against"]
    assert (against["questions"], against["accuracy"], against["other_accuracy"]) == (8, 0.625, 0.5)
    assert (against["only_first"], against["only_other"]) == (2, 1)
    shown = CliRunner().invoke(app, ["evaluate", str(tmp_path / "output"), "--by", "length"]).stdout
    assert "2 questions have no answer and count as wrong" in shown
    assert "length: s" in shown


def test_the_latest_answer_counts_and_tables_may_be_corrected(tmp_path: Path) -> None:
    """A replaced video's new answers supersede the old; a corrected label needs no new run."""
    small = job(tmp_path, source_id_column="length")
    make_output(small, lambda *_: "one", encode=False, run_id="20260101T000000-1")
    (tmp_path / "videos.csv").write_text((tmp_path / "videos.csv").read_text().replace("a.mp4,s", "a.mp4,xl"))
    make_output(small, lambda *_: "two", encode=False, run_id="20260101T000001-0")
    assert evaluated(tmp_path / "output")["overall"]["right"] == 1
    table = tmp_path / "questions.jsonl"
    table.write_text(table.read_text().replace('"two"', '"one"'))
    assert evaluated(tmp_path / "output")["overall"]["right"] == 3
    # What was recorded with the answers is unchanged.
    assert evaluated(tmp_path / "output", "--answered-only")["overall"]["right"] == 1


def test_what_can_not_be_evaluated_is_refused_by_name(tmp_path: Path) -> None:
    """A misspelt column, no run, no expected answers, a label that is no option, an unknown fingerprint."""

    def refusal(*arguments: str | Path) -> str:
        done = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
        assert isinstance(done.exception, ConfigurationError), done.exception
        return str(done.exception)

    assert "no run has written here" in refusal(tmp_path / "nothing")
    make_output(job(tmp_path), encode=False)
    output = tmp_path / "output"
    assert "did you mean 'length'?" in refusal(output, "--by", "lenght")
    assert "has no run of fingerprint 0123" in refusal(output, "--fingerprint", "0123")
    assert "is not one of video_mme" in refusal(output, "--benchmark", "videomme")
    assert "--letters best is not one of ranked" in refusal(output, "--letters", "best")
    assert "which hold the categories" in refusal(output, "--answered-only", "--by", "length")
    table = tmp_path / "questions.jsonl"
    table.write_text(table.read_text().replace('"blue", "category"', '"green", "category"'))
    assert "question_id 'colour', video_id 'a': the expected answer 'green'" in refusal(output)
    table.write_text('{"question": "What happens?"}')
    assert "no question has an expected answer" in refusal(output)
    (record,) = (file for file in (output / "runs").iterdir() if not file.name.endswith(".end.json"))
    started = json.loads(record.read_text())
    started["job"]["sampling"]["every_second_frame"] = True
    record.write_text(json.dumps(started))
    assert "another version of flashvid (sampling.every_second_frame" in refusal(output)
