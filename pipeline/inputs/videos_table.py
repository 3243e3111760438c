"""Read the videos table: a folder or glob of videos, or a table with a row per video."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import InputTableError
from pipeline.inputs.tables import fixed_part, is_glob, is_table, parquet_parts, read_table, text_column
from pipeline.inputs.videos import VideoTable
from pipeline.store.filesystem import answering, resolve

# What the readers read, by the usual suffixes of such files.
VIDEO_SUFFIXES = frozenset(
    {
        ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mj2", ".mkv", ".webm", ".avi", ".divx", ".ts", ".m2ts", ".mts",
        ".m2t", ".trp", ".mpg", ".mpeg", ".mpe", ".m2v", ".m1v", ".vob", ".flv", ".f4v", ".wmv", ".asf",
        ".ogv", ".ogm", ".mxf", ".gxf", ".rm", ".rmvb", ".gif", ".apng", ".dv", ".ivf", ".nut", ".wtv", ".nsv",
        ".dav", ".y4m",
    }
)  # fmt: skip
_SHOWN_SUFFIXES = 10


def read_videos(
    path: str, storage_options: Mapping[str, Any] | None = None, allowed_roots: Sequence[str] | None = None
) -> VideoTable:
    """Read the videos of a job.

    Args:
        path: A table (`read_table`), or a folder (searched recursively) or glob of videos. For the latter, `video_id`
            is the path of the file below the folder, or below the part of the glob before its first wildcard.
        storage_options: Options for fsspec.
        allowed_roots: As in `JobConfig`.

    Raises:
        InputTableError: no such path, no rows, a missing column, a file name that is not UTF-8, or a `video_id` that
            is empty or occurs twice; the message names the rows.
        StorageUnavailableError: the store of the table, folder or glob does not answer.
    """
    options, notes = storage_options or {}, list[str]()
    is_folder_of_parts = not is_table(path) and _is_folder_of_parts(path, options)
    rows = _table_rows(path, options, notes) if is_table(path) or is_folder_of_parts else _files(path, options, notes)
    if not rows.num_rows:
        raise InputTableError("has no videos: give a table with rows, or a folder or glob with video files", path)
    if pc.count_distinct(rows["video_id"]).as_py() < rows.num_rows:
        first_row: dict[str, int] = {}
        for number, video_id in enumerate(rows["video_id"].to_pylist(), 1):
            if (earlier := first_row.setdefault(video_id, number)) != number:
                raise InputTableError(
                    f"video_id {video_id!r} occurs twice, in rows {earlier} and {number}: change or remove one", path
                )
    return VideoTable(rows, path, allowed_roots, tuple(notes))


def _is_folder_of_parts(path: str, options: Mapping[str, Any]) -> bool:
    """Return whether a folder is a table of Parquet parts. Raises InputTableError if it holds videos, too."""
    fs, inner = resolve(path, options)
    with answering(path):
        if not fs.isdir(inner):
            return False
        found = fs.find(inner)
    # The output of an earlier run may be in the folder of its videos.
    parts = [part for part in parquet_parts(found) if "/fingerprint=" not in part and "/probes/part-" not in part]
    videos = [file for file in found if _is_video(file)]
    if parts and videos:
        raise InputTableError(
            f"holds both tables and videos, for example {parts[0]} and {videos[0]}: give the table's files as a glob "
            "that ends in .parquet, or a folder or glob of videos only",
            path,
        )
    return bool(parts)


def _is_video(file: str) -> bool:
    # macOS keeps the attributes of a.mp4 on other disks in ._a.mp4.
    path = PurePosixPath(file)
    return path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("._")


def _files(path: str, options: Mapping[str, Any], notes: list[str]) -> pa.Table:
    fs, inner = resolve(path, options)
    with answering(path):
        # First look for a file of exactly this name: "clip [a1].mp4" may be one, and would match nothing as a glob.
        if fs.isdir(inner):
            fixed, found = inner.rstrip("/"), fs.find(inner)
        elif fs.exists(inner):
            fixed, found = inner.rsplit("/", 1)[0], [inner]
        elif is_glob(path):
            fixed, found = fixed_part(inner), fs.glob(inner)
        else:
            raise InputTableError("no such file or folder", path)
    files = [file for file in sorted(found) if _is_video(file)]
    if others := Counter(_kind(file) for file in found if not _is_video(file)):
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(_SHOWN_SUFFIXES))
        more = ", ..." if len(others) > _SHOWN_SUFFIXES else ""
        notes.append(f"{path}: left out, since their names are not those of videos: {kinds}{more}")
    for file in files:
        # Linux allows any bytes in a name, and Python keeps bytes that are not UTF-8 as lone surrogates. No table can
        # store these, and no file may be left out silently.
        if any("\ud800" <= character <= "\udfff" for character in file):
            raise InputTableError(f"the file {file!a} has a name that is not UTF-8: rename it", path)
    paths = [fs.unstrip_protocol(file) if "://" in path else file for file in files]
    ids = [file.removeprefix(fixed).lstrip("/") for file in files]
    return pa.table({"video_id": text_column(ids), "video_path": text_column(paths)})


def _kind(file: str) -> str:
    path = PurePosixPath(file)
    if path.name.startswith("._"):
        return "._*"
    return path.suffix.lower() or "without a suffix"


def _table_rows(path: str, options: Mapping[str, Any], notes: list[str]) -> pa.Table:
    table = read_table(path, options, note=notes.append)
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
