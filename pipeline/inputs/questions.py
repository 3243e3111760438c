"""The questions table: what is asked of every video, or of one."""

from __future__ import annotations

import json
import string
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from pipeline.config import QuestionRow
from pipeline.errors import InputTableError
from pipeline.inputs.prompts import question_prompt
from pipeline.inputs.tables import is_table, read_table
from pipeline.store.keys import digest, question_hash

_COLUMNS = tuple(QuestionRow.model_fields)


@dataclass(frozen=True)
class Question:
    """A checked question.

    Attributes:
        question_id: Unique among the questions that any one video gets.
        template: The text, with `{column}` where a column of the video's row goes.
        options: Choices shown to the model, or None for an open question.
        expected_answer: For evaluation; never shown to the model.
        video_id: The only video it is asked of; None for all.
        category: For evaluation, as `expected_answer`.
    """

    question_id: str
    template: str
    options: tuple[str, ...] | None = None
    expected_answer: str | None = None
    video_id: str | None = None
    category: str | None = None

    @cached_property
    def columns(self) -> frozenset[str]:
        """Columns of the video's row that the text uses."""
        return frozenset(name for _, name, _, _ in string.Formatter().parse(self.template) if name)

    @cached_property
    def fixed_hash(self) -> str | None:
        """The `question_hash` of a text that is the same for every row; None if it uses columns."""
        return None if self.columns else question_hash(self.render({}), self.options)

    def render(self, columns: Mapping[str, Any]) -> str:
        """The text for one video, whose row has these columns."""
        # Not str.format: a column may be called "meta.title", which that takes for an attribute.
        parts = string.Formatter().parse(self.template)
        return "".join(text + ("" if name is None else str(columns[name])) for text, name, _, _ in parts)

    def hash(self, columns: Mapping[str, Any]) -> str:
        """The `question_hash` of what that video is asked."""
        return self.fixed_hash or question_hash(self.render(columns), self.options)

    def prompt(self, columns: Mapping[str, Any]) -> str:
        """What the model reads after that video."""
        return question_prompt(self.render(columns), self.options)

    def row(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """The question's columns of that video's row in `answers/`."""
        return {
            "question_id": self.question_id,
            "question": self.render(columns),
            "question_hash": self.hash(columns),
            "options": list(self.options) if self.options else None,
            "expected_answer": self.expected_answer,
        }


class QuestionTable:
    """The job's questions, looked up by video."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self._common: list[Question] = []
        self._of_video: dict[str, list[Question]] = defaultdict(list)
        for question in questions:
            (self._common if question.video_id is None else self._of_video[question.video_id]).append(question)

    @property
    def common(self) -> Sequence[Question]:
        """The questions for all videos."""
        return self._common

    def for_video(self, video_id: str) -> list[Question]:
        """Every question of a video: those for all videos, then its own."""
        return [*self._common, *self._of_video.get(video_id, [])]

    @property
    def columns(self) -> frozenset[str]:
        """Columns of the videos table that some question uses."""
        own = (question for questions in self._of_video.values() for question in questions)
        return frozenset().union(*(question.columns for question in (*self._common, *own)))


def read_questions(
    source: str | Sequence[QuestionRow],
    *,
    video_ids: Sequence[str] | pa.ChunkedArray,
    video_columns: Collection[str],
    storage_options: Mapping[str, Any] | None = None,
) -> QuestionTable:
    """Read and check the questions of a job.

    Args:
        source: Path of a Parquet, CSV or JSONL table, or the rows written into the job.
        video_ids: The videos there are, to check `video_id`; as Arrow holds them where they are many.
        video_columns: Columns that `{column}` may use.
        storage_options: For fsspec.

    Raises:
        InputTableError: no questions, a missing or unknown column, an impossible value, an unknown `{column}` or
            `video_id`, or a `question_id` that occurs twice for the same video; the message names the rows.
    """
    if isinstance(source, str):
        name, rows = source, read_question_rows(source, storage_options or {})
    else:
        name, rows = "questions", list(source)
    if not rows:
        raise InputTableError("has no questions", name)
    columns = frozenset(video_columns)
    asked = pa.array(list({row.video_id for row in rows if row.video_id is not None}), pa.string())
    known = frozenset(asked.filter(pc.is_in(asked, value_set=_array(video_ids))).to_pylist())
    questions = []
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        question = Question(
            question_id=row.question_id or digest("question", row.question, row.options, length=16),
            template=row.question,
            options=row.options,
            expected_answer=row.answer,
            video_id=row.video_id,
            category=row.category,
        )
        _check_placeholders(question, columns, where)
        if question.video_id is not None and question.video_id not in known:
            raise InputTableError(f"video_id {question.video_id!r} is not in the videos table", where)
        questions.append(question)
    _check_unique(questions, name)
    return QuestionTable(questions)


def _array(values: Sequence[str] | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return values if isinstance(values, pa.ChunkedArray) else pa.array(values, pa.string())


def read_question_rows(path: str, options: Mapping[str, Any]) -> list[QuestionRow]:
    """The rows of a questions table, each checked by itself.

    Args:
        path: A Parquet, CSV or JSONL table.
        options: For fsspec.

    Raises:
        InputTableError: see `read_questions`.
    """
    if not is_table(path):
        raise InputTableError("is not a .parquet, .csv or .jsonl file", path)
    table = read_table(path, options)
    for column in table.column_names:
        if column not in _COLUMNS:
            near = get_close_matches(column, _COLUMNS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known columns: {', '.join(_COLUMNS)}"
            raise InputTableError(f"unknown column {column!r}; {hint}", path)
    if table.num_rows and "question" not in table.column_names:
        raise InputTableError(f"has no column 'question'; its columns are {table.column_names}", path)
    return [_row(row, f"{path}, row {number}") for number, row in enumerate(table.to_pylist(), 1)]


def _row(row: Mapping[str, Any], where: str) -> QuestionRow:
    values = dict(row)
    if isinstance(values.get("options"), str):
        values["options"] = _options(values["options"], where)
    for name in ("question_id", "video_id", "answer", "category"):
        if isinstance(values.get(name), int):  # JSONL and Parquet may hold numbers where an id is meant
            values[name] = str(values[name])
    try:
        return QuestionRow.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputTableError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where) from None


def _options(text: str, where: str) -> list[str] | None:
    """Options in a CSV cell: a JSON list."""
    try:
        options = json.loads(text)
    except json.JSONDecodeError:
        options = None
    if not isinstance(options, list):
        raise InputTableError(f'options: {text!r} is not a JSON list such as ["red", "blue"]', where)
    return [str(option) for option in options]


def _check_placeholders(question: Question, columns: frozenset[str], where: str) -> None:
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(question.template)]
    except ValueError as error:
        raise InputTableError(f"question: {error} (write {{{{ and }}}} for literal braces)", where) from None
    for name, spec, how in fields:
        if name is not None and name not in columns:
            raise InputTableError(
                f"the question uses {{{name}}}, which is no column of the videos table; its columns are "
                f"{', '.join(sorted(columns))} (write {{{{ and }}}} for literal braces)",
                where,
            )
        if spec or how:
            raise InputTableError(f"the question formats {{{name}}}: only a plain {{column}} is understood", where)


def _check_unique(questions: Sequence[Question], name: str) -> None:
    rows_of_id: dict[str, dict[str | None, int]] = defaultdict(dict)
    for number, question in enumerate(questions, 1):
        rows = rows_of_id[question.question_id]
        # A question for all videos clashes with every other of its id; two for different videos do not.
        clashing = rows if question.video_id is None else {None, question.video_id} & rows.keys()
        if clashing:
            earlier = min(rows[scope] for scope in clashing)
            raise InputTableError(
                f"question_id {question.question_id!r} occurs twice, in rows {earlier} and {number}", name
            )
        rows[question.video_id] = number
