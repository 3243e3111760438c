"""The videos table: a folder, a glob, or a Parquet, CSV or JSONL file with a row per video."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import InputTableError
from pipeline.inputs.table_files import is_table, read_table
from pipeline.storage import resolve

VIDEO_SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg", ".mpeg"})
_KNOWN_COLUMNS = ("video_id", "video_path", "start_s", "end_s")


@dataclass(frozen=True)
class Video:
    """A row of the videos table.

    Attributes:
        video_id: Unique name of the row.
        video_path: Where the file is; None if the row does not say.
        start_s: Start of the span in seconds; None means the beginning.
        end_s: End of the span in seconds; None means the end.
        columns: The row's other columns, for `{column}` in questions.
        problem: Why the row can't be used; it then fails in the probe stage and stops no other row.
    """

    video_id: str
    video_path: str | None
    start_s: float | None = None
    end_s: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def read_videos(path: str, storage_options: Mapping[str, Any] | None = None) -> list[Video]:
    """Read the videos of a job.

    Args:
        path: A table file, a folder (searched recursively), or a glob. In a folder or glob, `video_id` is the
            file's path below the folder (below the glob's fixed part).
        storage_options: For fsspec.

    Raises:
        InputTableError: nothing there, no rows, a missing column, or a `video_id` that is empty or occurs twice;
            the message names the rows.
    """
    options = storage_options or {}
    videos = _from_table(path, options) if is_table(path) else _from_files(path, options)
    if not videos:
        raise InputTableError("has no videos", path)
    first_row: dict[str, int] = {}
    for number, video in enumerate(videos, 1):
        if (earlier := first_row.setdefault(video.video_id, number)) != number:
            raise InputTableError(f"video_id {video.video_id!r} occurs twice, in rows {earlier} and {number}", path)
    return videos


def _from_files(path: str, options: Mapping[str, Any]) -> list[Video]:
    fs, inner = resolve(path, options)
    # What is there under this very name comes first: "clip [a1].mp4" is a file, and would match nothing as a glob.
    if fs.isdir(inner):
        fixed, found = inner.rstrip("/"), fs.find(inner)
    elif fs.exists(inner):
        fixed, found = inner.rsplit("/", 1)[0], [inner]
    elif any(character in path for character in "*?["):
        fixed = inner[: min(inner.find(c) for c in "*?[" if c in inner)].rsplit("/", 1)[0]
        found = fs.glob(inner)
    else:
        raise InputTableError("no such file or folder", path)
    return [
        Video(
            video_id=file.removeprefix(fixed).lstrip("/"),
            video_path=fs.unstrip_protocol(file) if "://" in path else file,
        )
        for file in sorted(found)
        if PurePosixPath(file).suffix.lower() in VIDEO_SUFFIXES
    ]


def _from_table(path: str, options: Mapping[str, Any]) -> list[Video]:
    table = read_table(path, options)
    if not table.column_names:  # an empty JSONL file
        return []
    for name in ("video_id", "video_path"):
        if name not in table.column_names:
            raise InputTableError(f"has no column {name!r}; its columns are {table.column_names}", path)
    return [_video(row, number, path) for number, row in enumerate(table.to_pylist(), 1)]


def _video(row: Mapping[str, Any], number: int, table: str) -> Video:
    video_id = row["video_id"]
    if video_id is None or not str(video_id).strip():
        raise InputTableError(f"row {number} has no video_id", table)
    video_path = row["video_path"]
    start_s, problem = _seconds(row, "start_s", None)
    end_s, problem = _seconds(row, "end_s", problem)
    if not video_path:
        problem = "the row has no video_path"
    elif start_s is not None and start_s < 0:
        problem = f"start_s is {start_s}, before the video begins"
    elif end_s is not None and end_s <= (start_s or 0.0):
        problem = f"end_s ({end_s}) is not after start_s ({start_s or 0.0})"
    return Video(
        video_id=str(video_id),
        video_path=_absolute(str(video_path), table) if video_path else None,
        start_s=start_s,
        end_s=end_s,
        columns={name: value for name, value in row.items() if name not in _KNOWN_COLUMNS},
        problem=problem,
    )


def _seconds(row: Mapping[str, Any], name: str, problem: str | None) -> tuple[float | None, str | None]:
    value = row.get(name)
    if value is None:
        return None, problem
    with suppress(TypeError, ValueError):
        if math.isfinite(seconds := float(value)):
            return seconds, problem
    return None, f"{name} is {value!r}, not a number of seconds"


def _absolute(video_path: str, table: str) -> str:
    """A relative path in a table is meant from the table's own folder."""
    if "://" in video_path or video_path.startswith("/"):
        return video_path
    folder = table.rsplit("/", 1)[0] if "/" in table else "."
    return f"{folder}/{video_path}" if "://" in folder else str(Path(folder).absolute() / video_path)


def referenced_columns(videos: Sequence[Video]) -> frozenset[str]:
    """Names that `{column}` in a question may use: every column some row has."""
    return frozenset(_KNOWN_COLUMNS).union(*(video.columns for video in videos))
