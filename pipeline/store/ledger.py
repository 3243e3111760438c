"""The ledger: answers and failures of one `answers_fingerprint`, appended in immutable parts, never rewritten.

Only the driver appends, so no two writers race for a row (DESIGN, guarantee 2). What is in the ledger is done;
there is no other marker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import pyarrow as pa

from pipeline.clip import AnswerKey, FailureKey
from pipeline.store import schemas
from pipeline.store.keys import shard_of
from pipeline.store.parquet import Row, to_bytes
from pipeline.store.retries import read_retries
from pipeline.store.storage import Storage

# Objects of one commit that are on their way at once: each takes some 30 ms on an object store, all of that waiting.
# As many connections as botocore opens to one.
OBJECTS_AT_ONCE = 10
_FAILURE_COLUMNS = (
    "clip_id", "video_id", "question_id", "question_hash", "error_kind", "error_type", "attempt", "stage", "run_id"
)  # fmt: skip


class Ledger:
    """Committed answers and failures under one fingerprint."""

    def __init__(self, storage: Storage, fingerprint: str) -> None:
        self._storage = storage
        self._answers = f"answers/fingerprint={fingerprint}"
        self._failures = f"failures/fingerprint={fingerprint}"

    def append_answers(self, rows: Sequence[Row], part: str, confirm: Callable[[], object] = lambda: None) -> None:
        """Commit answers, one object per shard of their `video_id`, `OBJECTS_AT_ONCE` side by side.

        Args:
            rows: Rows of `schemas.ANSWERS`.
            part: Name of this commit, unique over all runs.
            confirm: Called in this thread before each `OBJECTS_AT_ONCE`; raises if no more may be written.

        Raises:
            Exception: what `confirm` or the first of the objects that failed raised. Those beside it are written or
                failed too, none is on its way any more (unless it was waiting for them that was interrupted); those
                after them are not begun.
        """
        shards: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            shards[shard_of(row["video_id"])].append(row)
        objects = [(f"{self._answers}/shard={shard}/part-{part}.parquet", shards[shard]) for shard in shards]
        at_once = self._storage.at_once(OBJECTS_AT_ONCE)
        # A thread for each object, so that none waits for another between `confirm` and its own beginning. All of them
        # have ended when this is left, also by an error.
        with ThreadPoolExecutor(at_once) as pool:
            for begin in range(0, len(objects), at_once):
                confirm()
                group = objects[begin : begin + at_once]
                writes = [pool.submit(self._create, name, shard_rows, schemas.ANSWERS) for name, shard_rows in group]
                for write in writes:
                    write.result()

    def append_failures(self, rows: Sequence[Row], part: str) -> None:
        """Commit failures, rows of `schemas.FAILURES`, in one object."""
        if rows:
            self._create(f"{self._failures}/part-{part}.parquet", rows, schemas.FAILURES)

    def answer_keys(self, shards: Iterable[str] | None = None) -> Iterable[AnswerKey]:
        """Keys of committed answers, of all or of some shards (`shard_of`); only key columns are read."""
        columns = ["video_id", "clip_id", "question_id", "question_hash", "run_id"]
        folders = [self._answers] if shards is None else [f"{self._answers}/shard={shard}" for shard in shards]
        for folder in folders:
            for part in self._read(folder, schemas.ANSWERS, columns):
                for row in part.to_pylist():
                    yield AnswerKey(**row)

    def failure_table(self) -> pa.Table:
        """The key columns of every committed failure, `video_id` and `error_type` among them."""
        empty = pa.schema([schemas.FAILURES.field(name) for name in _FAILURE_COLUMNS]).empty_table()
        return pa.concat_tables([empty, *self._read(self._failures, schemas.FAILURES, _FAILURE_COLUMNS)])

    def failure_keys(self, rows: pa.Table | None = None) -> Iterable[FailureKey]:
        """Keys of committed failures: of all, or of some rows of `failure_table`."""
        requests = read_retries(self._storage)
        names = [field.name for field in fields(FailureKey) if field.name != "retried"]
        for batch in (self.failure_table() if rows is None else rows).to_batches():
            for row in batch.to_pylist():
                retried = any(request.covers(row) for request in requests)
                yield FailureKey(**{name: row[name] for name in names}, retried=retried)

    def _create(self, name: str, rows: Sequence[Row], schema: pa.Schema) -> None:
        # Part names carry the run and a counter: a clash means two processes believe to be the same run.
        self._storage.add(name, to_bytes(rows, schema))

    def _read(self, folder: str, schema: pa.Schema, columns: Sequence[str]) -> Iterable[pa.Table]:
        return self._storage.scan(self._storage.names(folder), schema, columns)
