"""Read Parquet, CSV and JSONL files as Arrow tables, with errors that name the file."""

import io
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv

from flashvid.bounded_json import parse_json
from pipeline.errors import InputTableError
from pipeline.inputs.parquet_table import read_parquet
from pipeline.store.filesystem import answering, resolve

MAX_COLUMNS = 1000
TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")


def is_table(path: str) -> bool:
    """Return whether a path has the suffix of a table."""
    return PurePosixPath(path).suffix.lower() in TABLE_SUFFIXES


def text_column(texts: Iterable[str | None]) -> pa.Array:
    """Return texts as an Arrow array of strings. `pa.array` returns the same, but imports pandas first."""
    builder = pa.lib.StringBuilder()
    builder.append_values(list(texts))
    return builder.finish()


def read_table(path: str, storage_options: Mapping[str, Any]) -> pa.Table:
    """Read one table file. Every cell of a CSV file is text, so a `video_id` of ``0001`` keeps its zeros.

    Args:
        path: Path or URL that ends in .parquet, .csv or .jsonl.
        storage_options: Options for fsspec.

    Raises:
        InputTableError: the file is missing or can't be parsed; the message has the file and the parser's reason.
        StorageUnavailableError: the store of the file does not answer.
    """
    fs, inner = resolve(path, storage_options)
    suffix = PurePosixPath(path).suffix.lower()
    try:
        with answering(path):
            content = fs.cat_file(inner)
    except FileNotFoundError:
        raise InputTableError("no such file", path) from None
    except IsADirectoryError:
        raise InputTableError("is a folder, not a table file", path) from None
    try:
        if suffix == ".parquet":
            return _checked(read_parquet(content))
        if suffix == ".csv":
            # Quoted fields may contain line breaks, as some questions do.
            parse_options = pa.csv.ParseOptions(newlines_in_values=True)
            names = pa.csv.open_csv(io.BytesIO(content), parse_options=parse_options).schema.names
            types = dict.fromkeys(names, pa.string())
            table = pa.csv.read_csv(
                io.BytesIO(content),
                parse_options=parse_options,
                # Only an empty cell is null: "NA" may be a name, and "null" may be an answer.
                convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""]),
            )
            return _checked(table)
        return _read_jsonl(content)
    except (pa.ArrowException, OSError, ValueError, OverflowError, LookupError) as error:
        raise InputTableError(f"not a readable {suffix[1:]} table: {error}", path) from None


def _read_jsonl(content: bytes) -> pa.Table:
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
    names = dict.fromkeys(name for row in rows for name in row)
    # Before the table is made: a line each with a key of its own would be a table of lines times lines.
    _check_columns(len(names))
    return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})


def _checked(table: pa.Table) -> pa.Table:
    """Return a table of sound values whose columns can be told apart. Raises ValueError for others."""
    _check_columns(table.num_columns)
    table.validate(full=True)  # Parquet may hold texts that are not UTF-8
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise ValueError(f"it has the column {twice[0]!r} more than once: rename one of them")
    return table


def _check_columns(count: int) -> None:
    """Check the number of columns. Raises ValueError."""
    if count > MAX_COLUMNS:
        raise ValueError(f"it has {count:,} columns, more than {MAX_COLUMNS:,}")
