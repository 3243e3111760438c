"""Parse the bytes of a table of videos or questions: Parquet, CSV, TSV, JSON lines or a JSON list, also with gzip."""

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv

from flashvid.bounded_json import parse_json
from pipeline.inputs.parquet_table import MOST_TIMES, SMALL_BYTES, read_parquet

MAX_COLUMNS = 1000
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson", ".json")
# Columns of row numbers that pandas writes: without a name, or with one that it made up.
_INDEX_COLUMN = re.compile(r"(Unnamed: \d+|__index_level_\d+__)?")
# What the parsers raise for content that they can't read.
PARSE_ERRORS = (pa.ArrowException, OSError, EOFError, ValueError, OverflowError, LookupError, zlib.error)


def table_format(path: str) -> str | None:
    """Return the suffix that tells a table's format, in lower case and without ``.gz``; None for other files."""
    suffix = PurePosixPath(path.lower().removesuffix(".gz")).suffix
    return suffix if suffix in SUFFIXES else None


def text_column(texts: Iterable[str | None]) -> pa.Array:
    """Return texts as an Arrow array of strings. `pa.array` returns the same, but imports pandas first."""
    builder = pa.lib.StringBuilder()
    builder.append_values(list(texts))
    return builder.finish()


def parse_table(content: bytes, path: str, texts: Collection[str] = ()) -> tuple[pa.Table, list[str]]:
    """Parse a table file. Every cell of a CSV or TSV file is text, so a `video_id` of ``0001`` keeps its zeros.

    Args:
        content: The file.
        path: Its path, whose suffix tells the format.
        texts: Columns of a JSON file whose numbers are read as their text, to the digit; lists item by item.

    Returns:
        The table, and the names of the index columns that were left out.

    Raises:
        PARSE_ERRORS: it can't be read; the message names the row or the column.
    """
    if path.lower().endswith(".gz"):
        content = _unzipped(content)
    suffix = table_format(path)
    if suffix == ".parquet":
        table = read_parquet(content)
    elif suffix in (".csv", ".tsv"):
        table = _read_delimited(content, "," if suffix == ".csv" else "\t")
    else:
        rows = _json_list(content) if suffix == ".json" else _json_lines(content)
        table = _of_rows(rows, texts)
    left_out = [name for name in table.column_names if _INDEX_COLUMN.fullmatch(name)]
    table = table.select([number for number, name in enumerate(table.column_names) if name not in left_out])
    _check_columns(table.num_columns)
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise ValueError(f"it has the column {twice[0]!r} more than once: rename one of them")
    table.validate(full=True)  # Parquet may hold texts that are not UTF-8
    return table, left_out


def _unzipped(content: bytes) -> bytes:
    most = max(MOST_TIMES * len(content), SMALL_BYTES)
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        unzipped = file.read(most + 1)
    if len(unzipped) > most:
        raise ValueError(f"its {len(content):,} bytes unpack to more than {most:,}")
    return unzipped


def _read_delimited(content: bytes, delimiter: str) -> pa.Table:
    # Quoted fields may contain line breaks, as some questions do.
    parse_options = pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    names = pa.csv.open_csv(io.BytesIO(content), parse_options=parse_options).schema.names
    return pa.csv.read_csv(
        io.BytesIO(content),
        parse_options=parse_options,
        # Only an empty cell is null: "NA" may be a name, and "null" may be an answer.
        convert_options=pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        ),
    )


def _json_lines(content: bytes) -> Sequence[Mapping[str, Any]]:
    """Parse JSON Lines. Arrow's own reader would turn a text such as "2026-01-31", maybe a `video_id`, into a time.

    Raises:
        ValueError: a line is not a JSON object, or the content is not UTF-8.
    """
    rows = []
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object but {line.strip()[:40]!r}")
            rows.append(row)
    return rows


def _json_list(content: bytes) -> Sequence[Mapping[str, Any]]:
    rows = parse_json(content.decode("utf-8-sig"))
    if not isinstance(rows, list):
        raise ValueError(f"it is not a list of rows but {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ValueError(f"row {number} is not a JSON object")
    return rows


def _of_rows(rows: Sequence[Mapping[str, Any]], texts: Collection[str]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    # Before the table is made: a line each with a key of its own would be a table of lines times lines.
    _check_columns(len(names))
    return pa.table({name: _column([row.get(name) for row in rows], name, name in texts) for name in names})


def _column(values: list[Any], name: str, is_text: bool) -> pa.Array:
    """Return the values of a column; values of several types become texts."""
    if not is_text:
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            pass
    for number, value in enumerate(values, 1):
        if isinstance(value, dict) or (isinstance(value, list) and not is_text):
            raise ValueError(f"row {number}: the column {name!r} has values of several types, one of them nested")
    if any(isinstance(value, list) for value in values):
        return pa.array([value if value is None else [_text(item) for item in value] for value in _lists(values, name)])
    return text_column([_text(value) for value in values])


def _lists(values: list[Any], name: str) -> Iterable[list[Any] | None]:
    for number, value in enumerate(values, 1):
        if value is not None and not isinstance(value, list):
            raise ValueError(f"row {number}: the column {name!r} has a list in another row, but here {value!r}")
        yield value


def _text(value: object) -> str | None:
    if isinstance(value, list | dict):
        raise ValueError(f"a list holds {value!r}, which is not a text or a number")
    return None if value is None else str(value)


def _check_columns(count: int) -> None:
    """Check the number of columns. Raises ValueError."""
    if count > MAX_COLUMNS:
        raise ValueError(f"it has {count:,} columns, more than {MAX_COLUMNS:,}")
