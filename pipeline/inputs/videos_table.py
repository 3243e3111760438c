"""Read the videos table: a folder, a glob, or a Parquet, CSV or JSONL file with a row per video."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputTableError
from pipeline.inputs.tables import is_table, read_table, text_column
from pipeline.inputs.videos import VideoTable
from pipeline.store.filesystem import answering, resolve

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"})


def read_videos(
    path: str, storage_options: Mapping[str, Any] | None = None, allowed_roots: Sequence[str] | None = None
) -> VideoTable:
    """Read the videos of a job.

    Args:
        path: A table file, a folder (searched recursively), or a glob. For a folder or glob, `video_id` is the path
            of the file below the folder, or below the part of the glob before its first wildcard.
        storage_options: Options for fsspec.
        allowed_roots: As in `JobConfig`.

    Raises:
        InputTableError: no such path, no rows, a missing column, a file name that is not UTF-8, or a `video_id` that
            is empty or occurs twice; the message names the rows.
        StorageUnavailableError: the store of the table, folder or glob does not answer.
    """
    options = storage_options or {}
    rows = _table_rows(path, options) if is_table(path) else _files(path, options)
    if not rows.num_rows:
        raise InputTableError("has no videos: give a table with rows, or a folder or glob with video files", path)
    if pc.count_distinct(rows["video_id"]).as_py() < rows.num_rows:
        first_row: dict[str, int] = {}
        for number, video_id in enumerate(rows["video_id"].to_pylist(), 1):
            if (earlier := first_row.setdefault(video_id, number)) != number:
                raise InputTableError(
                    f"video_id {video_id!r} occurs twice, in rows {earlier} and {number}: change or remove one", path
                )
    return VideoTable(rows, path, allowed_roots)


def _files(path: str, options: Mapping[str, Any]) -> pa.Table:
    fs, inner = resolve(path, options)
    with answering(path):
        # First look for a file of exactly this name: "clip [a1].mp4" may be one, and would match nothing as a glob.
        if fs.isdir(inner):
            fixed, found = inner.rstrip("/"), fs.find(inner)
        elif fs.exists(inner):
            fixed, found = inner.rsplit("/", 1)[0], [inner]
        elif any(character in path for character in "*?["):
            fixed = inner[: min(inner.find(c) for c in "*?[" if c in inner)].rsplit("/", 1)[0]
            found = fs.glob(inner)
        else:
            raise InputTableError("no such file or folder", path)
    files = [file for file in sorted(found) if PurePosixPath(file).suffix.lower() in VIDEO_SUFFIXES]
    for file in files:
        # Linux allows any bytes in a name, and Python keeps bytes that are not UTF-8 as lone surrogates. No table can
        # store these, and no file may be left out silently.
        if any("\ud800" <= character <= "\udfff" for character in file):
            raise InputTableError(f"the file {file!a} has a name that is not UTF-8: rename it", path)
    paths = [fs.unstrip_protocol(file) if "://" in path else file for file in files]
    ids = [file.removeprefix(fixed).lstrip("/") for file in files]
    return pa.table({"video_id": text_column(ids), "video_path": text_column(paths)})


def _table_rows(path: str, options: Mapping[str, Any]) -> pa.Table:
    table = read_table(path, options)
    if not table.column_names:  # an empty JSONL file has no columns
        return pa.table({"video_id": text_column([])})
    for name in ("video_id", "video_path"):
        if name not in table.column_names:
            raise InputTableError(f"has no column {name!r}; its columns are {table.column_names}", path)
    position = table.column_names.index("video_id")
    if table["video_id"].type != pa.string():
        # An id is the text of the table's value, for example of a number.
        ids = [None if value is None else str(value) for value in table["video_id"].to_pylist()]
        table = table.set_column(position, "video_id", text_column(ids))
    blank = pc.is_in(pc.utf8_trim_whitespace(table["video_id"]), value_set=text_column(["", None]))
    if pc.any(blank).as_py():
        raise InputTableError(f"row {pc.index(blank, True).as_py() + 1} has no video_id: fill it in", path)
    return table
