"""Read tables of videos and questions: a file, a glob of files, or a folder of Parquet parts."""

from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from pipeline.errors import InputTableError
from pipeline.inputs.table_formats import MAX_COLUMNS, PARSE_ERRORS, parse_table, table_format, text_column
from pipeline.store.filesystem import answering, resolve

__all__ = ["MAX_COLUMNS", "fixed_part", "is_glob", "is_table", "parquet_parts", "read_table", "text_column"]


def is_table(path: str) -> bool:
    """Return whether a path, or a glob, has the suffix of a table."""
    return table_format(path) is not None


def is_glob(path: str) -> bool:
    """Return whether a path has wildcards."""
    return any(character in path for character in "*?[")


def fixed_part(pattern: str) -> str:
    """Return the folder of a glob before its first wildcard."""
    return pattern[: min(pattern.find(character) for character in "*?[" if character in pattern)].rsplit("/", 1)[0]


def read_table(
    path: str,
    storage_options: Mapping[str, Any],
    texts: Collection[str] = (),
    note: Callable[[str], object] = lambda _: None,
) -> pa.Table:
    """Read a table: one file, the files that match a glob, or the Parquet parts below a folder, sorted by name.

    Names of folders of the form ``key=value``, below the folder or the glob's first wildcard, become columns of texts.

    Args:
        path: Path or URL of the file, the glob or the folder.
        storage_options: Options for fsspec.
        texts: See `parse_table`.
        note: Called with each sentence that the user should know, for example about a column that was left out.

    Raises:
        InputTableError: a file is missing or can't be parsed, or the files have different columns; the message has the
            file and the parser's reason.
        StorageUnavailableError: the store of the file does not answer.
    """
    fs, inner = resolve(path, storage_options)
    with answering(path):
        if table_format(path) is None:
            fixed, files = inner, parquet_parts(fs.find(inner))
        # First look for a file of exactly this name, which may hold brackets.
        elif is_glob(path) and not fs.exists(inner):
            fixed, files = fixed_part(inner), sorted(fs.glob(inner))
            if not files:
                raise InputTableError("matches no file", path)
        else:
            return _read_file(fs, inner, path, texts, note)
    tables = [_with_folders(_read_file(fs, file, file, texts, note), file.removeprefix(fixed)) for file in files]
    for file, table in zip(files, tables, strict=True):
        if sorted(table.column_names) != sorted(tables[0].column_names):
            reason = f"has the columns {table.column_names}, but {files[0]} has {tables[0].column_names}"
            raise InputTableError(reason, file)
    try:
        return pa.concat_tables(
            [table.select(tables[0].column_names) for table in tables], promote_options="permissive"
        )
    except pa.ArrowException as error:
        raise InputTableError(f"its files have columns of different types: {error}", path) from None


def parquet_parts(files: Collection[str]) -> list[str]:
    """Return the Parquet files of a folder, sorted, without those that Spark and others mark as not of the data."""
    parts = [file for file in files if file.lower().endswith(".parquet")]
    return sorted(file for file in parts if not PurePosixPath(file).name.startswith(("_", ".")))


def _read_file(
    fs: Any,  # noqa: ANN401 - an fsspec filesystem, which has no types
    file: str,
    shown: str,
    texts: Collection[str],
    note: Callable[[str], object],
) -> pa.Table:
    try:
        with answering(shown if "://" in shown else fs.unstrip_protocol(file)):
            content = fs.cat_file(file)
    except FileNotFoundError:
        raise InputTableError("no such file", shown) from None
    except IsADirectoryError:
        raise InputTableError("is a folder, not a table file", shown) from None
    try:
        table, left_out = parse_table(content, file, texts)
    except PARSE_ERRORS as error:
        raise InputTableError(f"not a readable {str(table_format(file))[1:]} table: {error}", shown) from None
    if left_out:
        note(f"{shown}: an index column without a name of its own is left out: {', '.join(map(repr, left_out))}")
    return table


def _with_folders(table: pa.Table, file: str) -> pa.Table:
    """Add the columns that the names of a file's folders have, as Hive writes them, unless the file has them itself."""
    for folder in PurePosixPath(file).parts[:-1]:
        key, equals, value = folder.partition("=")
        if equals and key and key not in table.column_names:
            table = table.append_column(key, text_column([unquote(value)] * table.num_rows))
    return table
