"""The ledger: answers and failures of one `answers_fingerprint`, appended in immutable parts, never rewritten.

Only the driver appends, so no two writers race for a row (DESIGN, guarantee 2). What is in the ledger is done;
there is no other marker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.dataset as ds

from pipeline import tables
from pipeline.keys import shard_of
from pipeline.parquet import Row, to_bytes
from pipeline.retries import read_retries
from pipeline.storage import Storage


@dataclass(frozen=True)
class AnswerKey:
    """What identifies a committed answer."""

    video_id: str
    clip_id: str
    question_id: str
    question_hash: str
    run_id: str = ""


@dataclass(frozen=True)
class FailureKey:
    """What planning needs of a committed failure; `retried` if `flashvid retry` asked for it since."""

    clip_id: str
    question_id: str | None
    error_kind: str
    attempt: int
    stage: str = ""
    run_id: str = ""
    retried: bool = False


class Ledger:
    """Committed answers and failures under one fingerprint."""

    def __init__(self, storage: Storage, fingerprint: str) -> None:
        self._storage = storage
        self._answers = f"answers/fingerprint={fingerprint}"
        self._failures = f"failures/fingerprint={fingerprint}"

    def append_answers(self, rows: Sequence[Row], part: str, confirm: Callable[[], object] = lambda: None) -> None:
        """Commit answers, one object per shard of their `video_id`.

        Args:
            rows: Rows of `tables.ANSWERS`.
            part: Name of this commit, unique over all runs.
            confirm: Called before each object; raises if it must not be written (any more).
        """
        shards: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            shards[shard_of(row["video_id"])].append(row)
        for shard, shard_rows in shards.items():
            confirm()
            self._create(f"{self._answers}/shard={shard}/part-{part}.parquet", shard_rows, tables.ANSWERS)

    def append_failures(self, rows: Sequence[Row], part: str) -> None:
        """Commit failures, rows of `tables.FAILURES`, in one object."""
        if rows:
            self._create(f"{self._failures}/part-{part}.parquet", rows, tables.FAILURES)

    def answer_keys(self) -> Iterable[AnswerKey]:
        """Keys of every committed answer; only key columns are read."""
        columns = ["video_id", "clip_id", "question_id", "question_hash", "run_id"]
        for row in self._read(self._answers, tables.ANSWERS, columns):
            yield AnswerKey(**row)

    def failure_keys(self) -> Iterable[FailureKey]:
        """Keys of every committed failure."""
        requests = read_retries(self._storage)
        columns = ["clip_id", "question_id", "error_kind", "attempt", "stage", "run_id", "error_type"]
        for row in self._read(self._failures, tables.FAILURES, columns):
            retried = any(request.covers(row) for request in requests)
            yield FailureKey(**{name: row[name] for name in columns[:6]}, retried=retried)

    def _create(self, name: str, rows: Sequence[Row], schema: pa.Schema) -> None:
        if not self._storage.create(name, to_bytes(rows, schema)):
            # Part names carry the run and a counter: a clash means two processes believe to be the same run.
            raise FileExistsError(f"{name} was written by somebody else")

    def _read(self, folder: str, schema: pa.Schema, columns: list[str]) -> Iterable[Row]:
        names = self._storage.names(folder)
        if not names:
            return
        paths = [self._storage.path(name) for name in names]
        dataset = ds.dataset(paths, schema=schema, format="parquet", filesystem=self._storage.fs)
        for batch in dataset.to_batches(columns=columns):
            yield from batch.to_pylist()
