"""Parquet, CSV and JSONL files as Arrow tables, with errors that name the file."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.csv

from pipeline.errors import InputTableError
from pipeline.store.filesystem import answering, resolve
from pipeline.store.parquet import from_bytes

TABLE_SUFFIXES = (".parquet", ".csv", ".jsonl")


def is_table(path: str) -> bool:
    """Whether a path names a table by its suffix."""
    return PurePosixPath(path).suffix.lower() in TABLE_SUFFIXES


def text_column(texts: Iterable[str | None]) -> pa.Array:
    """Texts as an Arrow array. `pa.array` makes the same one, but imports pandas first."""
    builder = pa.lib.StringBuilder()
    builder.append_values(list(texts))
    return builder.finish()


def read_table(path: str, storage_options: Mapping[str, Any]) -> pa.Table:
    """Read one table file. Every cell of a CSV file is text: a `video_id` of ``0001`` is not the number 1.

    Args:
        path: Path or URL ending in .parquet, .csv or .jsonl.
        storage_options: For fsspec.

    Raises:
        InputTableError: the file is missing or can't be parsed; names the file and the parser's reason.
        StorageUnavailableError: its store does not answer.
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
            return from_bytes(content)
        if suffix == ".csv":
            # Quoted fields may hold line breaks: questions do.
            parse_options = pa.csv.ParseOptions(newlines_in_values=True)
            names = pa.csv.open_csv(io.BytesIO(content), parse_options=parse_options).schema.names
            types = dict.fromkeys(names, pa.string())
            return pa.csv.read_csv(
                io.BytesIO(content),
                parse_options=parse_options,
                # Only an empty cell is null: "NA" may be a name, and "null" an answer.
                convert_options=pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""]),
            )
        return _read_jsonl(content)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputTableError(f"not a readable {suffix[1:]} table: {error}", path) from None


def _read_jsonl(content: bytes) -> pa.Table:
    """Not Arrow's reader: that turns a text like "2026-01-31", which may be a `video_id`, into a time."""
    rows = []
    for number, line in enumerate(content.decode("utf-8-sig").split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error}") from None
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not an object")
            rows.append(row)
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: [row.get(name) for row in rows] for name in names})
