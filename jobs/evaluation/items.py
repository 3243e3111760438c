"""The questions of a run that have an expected answer, each with its answer."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from flashvid.errors import ConfigurationError
from jobs.evaluation.accuracy import Item
from jobs.evaluation.letters import LetterRule
from jobs.evaluation.response_scores import score
from pipeline.config import JobConfig
from pipeline.inputs import Question, Video
from pipeline.inputs.job_inputs import read_tables
from pipeline.store.parquet import Row
from pipeline.store.results import Results

QUESTION_CATEGORY = "category"
_COLUMNS = ("question", "options", "expected_answer", "response")


def answered_items(results: Results, rule: LetterRule) -> list[Item]:
    """Score answers against the expected answer that was recorded with them; reads no table."""
    windows = results.record["job"].get("window_s") is not None
    found = []
    for row in results.answers(_COLUMNS):
        if row["expected_answer"] is not None:
            question, window = (row["video_id"], row["question_id"]), row["clip_id"] if windows else ""
            found.append(_item(question, row, (row["expected_answer"], row["options"]), rule, {}, window))
    return found


def all_items(results: Results, job: JobConfig, by: Sequence[str], rule: LetterRule) -> list[Item]:
    """Return every question of the job that has an expected answer, answered or not.

    Expected answers and categories come from today's tables, so that a corrected label needs no new run.

    Args:
        results: The run's.
        job: The job whose tables to use.
        by: Names of categories: `category` of the questions table, or columns of the videos table.
        rule: How letters are found in responses.

    Raises:
        InputTableError: a table can't be read.
        ConfigurationError: an unknown category, an expected answer that is not an option, or no expected answer.
    """
    videos, questions = read_tables(job)
    known = sorted({QUESTION_CATEGORY, *videos.columns})
    for name in by:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ConfigurationError(f"--by {name}: no such column; {hint}")
    found = _Found(results, windows=job.window_s is not None)
    items = []
    for video in videos:
        for question in questions.for_video(video.video_id):
            if question.expected_answer is not None:
                values = {name: value for name in by if (value := _category(name, video, question)) is not None}
                expected, key = (question.expected_answer, question.options), (video.video_id, question.question_id)
                answered = found.of(video, question.question_id)
                items += [_item(key, row, expected, rule, values, window) for window, row in answered]
    if not items:
        raise ConfigurationError("no question has an expected answer: fill the questions table's column 'answer'")
    return items


class _Found:
    """What a run left of each question of a row: an answer or none, for each window if it cut the row into windows."""

    def __init__(self, results: Results, *, windows: bool) -> None:
        self._windows = windows
        self._answers: dict[tuple[str, str], dict[str, Row]] = defaultdict(dict)
        answers = results.answers(_COLUMNS)
        for row in answers:
            self._answers[row["video_id"], row["question_id"]][row["clip_id"]] = row
        self._failed: dict[tuple[str, str | None], set[str]] = defaultdict(set)
        for row in results.failures(answers):
            self._failed[row["video_id"], row["question_id"]].add(row["clip_id"])

    def of(self, video: Video, question_id: str) -> list[tuple[str, Row | None]]:
        """Return windows, or one without a name, and their answers."""
        answers = self._answers[video.video_id, question_id]
        if not self._windows:
            span = (video.start_s, video.end_s)
            return [("", next((row for row in answers.values() if (row["start_s"], row["end_s"]) == span), None))]
        failed = self._failed[video.video_id, None] | self._failed[video.video_id, question_id]
        unanswered = sorted(failed - answers.keys())
        return [*answers.items(), *((clip_id, None) for clip_id in unanswered)] or [("", None)]


def _category(name: str, video: Video, question: Question) -> str | None:
    value = question.category if name == QUESTION_CATEGORY else None
    value = video.columns.get(name) if value is None else value
    return None if value is None else str(value)


def _item(
    question: tuple[str, str],
    row: Row | None,
    expected: tuple[str, Sequence[str] | None],
    rule: LetterRule,
    categories: Mapping[str, str],
    window: str,
) -> Item:
    """Score an answer to a question (video and question id), whose expected answer comes with the options."""
    if row is None:
        return Item(*question, None, categories=categories, window=window)
    try:
        found = score(row["response"], *expected, rule)
    except ConfigurationError as error:
        where = f"question_id {question[1]!r}, video_id {question[0]!r}"
        raise ConfigurationError(error.message, where) from None
    return Item(*question, found.is_right, found.is_read, categories, window)
