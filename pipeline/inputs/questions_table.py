"""Read and check the questions table."""

import math
import string
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import pyarrow.compute as pc
from pydantic import ValidationError

from flashvid.bounded_json import parse_json
from pipeline.config import QuestionRow
from pipeline.errors import InputTableError
from pipeline.inputs.questions import Question, QuestionTable
from pipeline.inputs.table_formats import SUFFIXES
from pipeline.inputs.tables import is_table, read_table, text_column
from pipeline.inputs.videos import VideoTable
from pipeline.store.keys import digest

_COLUMNS = tuple(QuestionRow.model_fields)
_TEXTS = ("question_id", "video_id", "answer", "category", "options")


def read_questions(
    source: str | Sequence[QuestionRow], videos: VideoTable, storage_options: Mapping[str, Any] | None = None
) -> QuestionTable:
    """Read and check the questions of a job.

    Args:
        source: Path of a Parquet, CSV or JSONL table, or the rows in the job.
        videos: The videos that a `video_id` may name, and the columns that `{column}` may use.
        storage_options: Options for fsspec.

    Raises:
        InputTableError: no questions, a missing or unknown column, an invalid value, an unknown `{column}` or
            `video_id`, or a `question_id` that occurs twice for the same video; the message names the rows.
        StorageUnavailableError: the store of the table does not answer.
    """
    notes: list[str] = []
    if isinstance(source, str):
        name, rows = source, read_question_rows(source, storage_options or {}, notes.append)
    else:
        name, rows = "questions", list(source)
    if not rows:
        raise InputTableError("has no questions", name)
    asked = text_column({row.video_id for row in rows if row.video_id is not None})
    known = {video_id: video_id for video_id in asked.filter(pc.is_in(asked, value_set=videos.video_ids)).to_pylist()}
    if len(known) < len(asked):
        known |= _equal_names(set(asked.to_pylist()) - known.keys(), videos)
    questions = []
    for number, row in enumerate(rows, 1):
        where = f"{name}, row {number}"
        question = Question(
            question_id=row.question_id or digest("question", row.question, row.options, length=16),
            template=row.question,
            options=row.options,
            expected_answer=row.answer,
            video_id=None if row.video_id is None else known.get(row.video_id, row.video_id),
            category=row.category,
        )
        _check_placeholders(question, videos.columns, where)
        if row.video_id is not None and row.video_id not in known:
            raise InputTableError(
                f"video_id {question.video_id!r} is not in the videos table: correct it, or leave it empty to ask the "
                "question about every video",
                where,
            )
        questions.append(question)
    _check_unique(questions, name)
    return QuestionTable(questions, notes)


def _equal_names(missing: Collection[str], videos: VideoTable) -> dict[str, str]:
    """Return the `video_id` of the videos table for ids that differ only in how accents are encoded.

    macOS writes names of files with letters and accents apart (NFD), most other programs together (NFC).
    """
    wanted = {unicodedata.normalize("NFC", name): name for name in missing}
    found: dict[str, list[str]] = defaultdict(list)
    for video_id in videos.video_ids.to_pylist():
        if (name := wanted.get(unicodedata.normalize("NFC", video_id))) is not None:
            found[name].append(video_id)
    return {name: ids[0] for name, ids in found.items() if len(ids) == 1}


def read_question_rows(
    path: str, options: Mapping[str, Any], note: Callable[[str], object] = lambda _: None
) -> list[QuestionRow]:
    """Return the rows of a questions table, each checked by itself.

    Args:
        path: A table file, or a glob of such files.
        options: Options for fsspec.
        note: See `read_table`.

    Raises:
        InputTableError: no such table, a missing or unknown column, or an invalid value.
        StorageUnavailableError: the store of the table does not answer.
    """
    if not is_table(path):
        raise InputTableError(f"is no table: give a file or a glob that ends in {', '.join(SUFFIXES)}", path)
    table = read_table(path, options, _TEXTS, note)
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
    for name in _TEXTS:
        values[name] = _as_text(values.get(name))
    try:
        return QuestionRow.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputTableError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", where) from None


def _as_text(value: object) -> object:
    """Return the text of a number: Parquet may hold numbers as ids, answers and options; pandas has NaN for none."""
    if isinstance(value, list):
        return [_as_text(item) for item in value]
    if isinstance(value, float) and math.isnan(value):
        return None
    return str(value) if isinstance(value, int | float) else value


def _options(text: str, where: str) -> list[str] | None:
    """Return the options in a CSV cell, which is a JSON list.

    Raises:
        InputTableError: the cell is not a JSON list.
    """
    try:
        options = parse_json(text)
    except ValueError:
        options = None
    if not isinstance(options, list):
        raise InputTableError(f'options: {text[:80]!r} is not a JSON list such as ["red", "blue"]', where)
    return [str(option) for option in options]


def _check_placeholders(question: Question, columns: frozenset[str], where: str) -> None:
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(question.template)]
    except ValueError as error:
        raise InputTableError(f"question: {error} (write {{{{ and }}}} for literal braces)", where) from None
    for name, spec, how in fields:
        if name is not None and name not in columns:
            raise InputTableError(
                f"the question uses {{{name}}}, which is not a column of the videos table; its columns are "
                f"{', '.join(sorted(columns))} (write {{{{ and }}}} for literal braces)",
                where,
            )
        if spec or how:
            raise InputTableError(
                f"the question formats {{{name}}}: only a plain {{column}} is supported, remove the ! or : and what "
                "follows",
                where,
            )


def _check_unique(questions: Sequence[Question], name: str) -> None:
    rows_of_id: dict[str, dict[str | None, int]] = defaultdict(dict)
    for number, question in enumerate(questions, 1):
        rows = rows_of_id[question.question_id]
        # A question about all videos conflicts with any other that has its id; questions about different videos do not.
        clashing = rows if question.video_id is None else {None, question.video_id} & rows.keys()
        if clashing:
            earlier = min(rows[scope] for scope in clashing)
            raise InputTableError(
                f"question_id {question.question_id!r} occurs twice, in rows {earlier} and {number}: change or remove "
                "one",
                name,
            )
        rows[question.video_id] = number
