"""Hold the videos of a job: the rows of its videos table, and the identity of each file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.inputs.allowed_roots import refusal
from pipeline.store.keys import shard_of

if TYPE_CHECKING:
    import pyarrow as pa

_KNOWN_COLUMNS = ("video_id", "video_path", "start_s", "end_s")
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Video:
    """A row of the videos table.

    Attributes:
        video_id: Unique name of the row.
        video_path: Path or URL of the file; None if the row has none.
        start_s: Start of the span in seconds; None for the beginning.
        end_s: End of the span in seconds; None for the end.
        columns: The row's other columns, for `{column}` in questions.
        problem: Why the row can't be used; None if it can. The row then fails in the probe stage, without effect on
            other rows.
        refused: Whether the file is outside of `allowed_roots`. Its existence may then not even be checked.
    """

    video_id: str
    video_path: str | None
    start_s: float | None = None
    end_s: float | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Source:
    """The file of a video, identified by its filesystem or by a column of the videos table.

    Attributes:
        source_id: Identity of the bytes; a replaced file has another one.
        size_bytes: Size of the file; None if it is missing or unreachable.
        unreachable: Why storage did not say whether the file exists; the `source_id` then identifies no bytes.
    """

    source_id: str
    size_bytes: int | None
    unreachable: str | None = None

    @property
    def exists(self) -> bool:
        """Return whether the file exists."""
        return self.size_bytes is not None


@dataclass(frozen=True)
class VideoTable:
    """The checked rows of a videos table.

    The rows stay in Arrow, where a million take little memory. Iteration converts them to `Video` objects in batches.

    Attributes:
        rows: The table; every `video_id` is a text, unique and not empty.
        path: Path or URL of the table; relative video paths start at its folder.
        allowed_roots: As in `JobConfig`; a row whose file is outside has a `problem`.
        notes: What the user should know about how the table was read.
    """

    rows: pa.Table
    path: str
    allowed_roots: Sequence[str] | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    def __iter__(self) -> Iterator[Video]:
        for batch in self.rows.to_batches(max_chunksize=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield _video(row, self.path, self.allowed_roots)

    @property
    def video_ids(self) -> pa.ChunkedArray:
        """Return the column `video_id`, of strings."""
        return self.rows["video_id"]

    @property
    def columns(self) -> frozenset[str]:
        """Return the names that `{column}` in a question may use."""
        return frozenset((*_KNOWN_COLUMNS, *self.rows.column_names))

    def first(self, count: int | None) -> VideoTable:
        """Return a table of the first `count` rows; None for all rows."""
        return self if count is None else replace(self, rows=self.rows.slice(0, count))

    def shards(self, count: int) -> list[VideoTable]:
        """Split the rows by the hash of their `video_id`, as storage splits the answers.

        Args:
            count: Number of shards, a divisor of 256. Shard i has the rows whose `shard_of` is in the i-th group of
                `256 / count` values.
        """
        if count == 1:
            return [self]
        of_row = np.array([int(shard_of(video_id), 16) * count // 256 for video_id in self.video_ids.to_pylist()])
        return [replace(self, rows=self.rows.take(np.flatnonzero(of_row == index))) for index in range(count)]


def _video(row: Mapping[str, Any], table: str, allowed_roots: Sequence[str] | None) -> Video:
    video_path = _absolute(str(row["video_path"]), table) if row["video_path"] else None
    refused = refusal(video_path, allowed_roots) if video_path else None
    start_s, problem = _seconds(row, "start_s", None)
    end_s, problem = _seconds(row, "end_s", problem)
    if not video_path:
        problem = "the row has no video_path"
    elif start_s is not None and start_s < 0:
        problem = f"start_s is {start_s}, before the video begins"
    elif end_s is not None and end_s <= (start_s or 0.0):
        problem = f"end_s ({end_s}) is not after start_s ({start_s or 0.0})"
    return Video(
        video_id=row["video_id"],
        video_path=video_path,
        start_s=start_s,
        end_s=end_s,
        columns={name: value for name, value in row.items() if name not in _KNOWN_COLUMNS},
        problem=refused or problem,
        refused=refused is not None,
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
    """Return the absolute path of a video; a relative path starts at the folder of the table."""
    if "://" in video_path or video_path.startswith("/"):
        return video_path
    folder = table.rsplit("/", 1)[0] if "/" in table else "."
    return f"{folder}/{video_path}" if "://" in folder else str(Path(folder).absolute() / video_path)
