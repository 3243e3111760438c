"""Append answers and failures of one `answers_fingerprint` to the ledger, in immutable parts.

Only the driver appends, so no two writers race for a row (docs/guarantees.md, guarantee 2). Work is done if and only
if the ledger holds its rows; there is no other marker.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from itertools import groupby
from pathlib import PurePosixPath

import pyarrow as pa

from pipeline.clip import AnswerKey, FailureKey
from pipeline.store import doubles, schemas
from pipeline.store.keys import shard_of
from pipeline.store.parquet import Row, rows_of, to_bytes
from pipeline.store.retries import read_retries
from pipeline.store.storage import Storage

# Objects of one commit that are written at the same time. On an object store each takes about 30 ms, all of it waiting.
# The number is botocore's default of connections to one host.
OBJECTS_AT_ONCE = 10
_FAILURE_COLUMNS = (
    "clip_id", "video_id", "question_id", "question_hash", "error_kind", "error_type", "attempt", "stage", "run_id"
)  # fmt: skip


class Ledger:
    """The committed answers and failures under one `answers_fingerprint`."""

    def __init__(self, storage: Storage, fingerprint: str) -> None:
        self._storage = storage
        self._answers = f"answers/fingerprint={fingerprint}"
        self._failures = f"failures/fingerprint={fingerprint}"

    def append_answers(
        self,
        rows: Sequence[Row],
        part: str,
        confirm: Callable[[], object] = lambda: None,
        just_before: Callable[[], object] = lambda: None,
    ) -> None:
        """Commit answers, one object per shard of their `video_id`, in groups of `OBJECTS_AT_ONCE` parallel writes.

        Args:
            rows: Rows of `schemas.ANSWERS`.
            part: Name of this commit, unique over all runs.
            confirm: Called in this thread before each group; raises if nothing more may be written.
            just_before: Called in the writing thread before each object, as in `Storage.create`.

        Raises:
            Exception: the error of `confirm`, or of the first object that failed. By then every other write of the
                same group has ended (unless the wait for them was interrupted), and no later group has started.
        """
        shards: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            shards[shard_of(row["video_id"])].append(row)
        objects = [(f"{self._answers}/shard={shard}/part-{part}.parquet", shards[shard]) for shard in shards]
        at_once = self._storage.at_once(OBJECTS_AT_ONCE)
        # One thread per object of a group, so that each write starts right after `confirm`. The pool waits for all
        # threads when this block ends, also after an error.
        with ThreadPoolExecutor(at_once) as pool:
            for begin in range(0, len(objects), at_once):
                confirm()
                group = objects[begin : begin + at_once]
                writes = [
                    pool.submit(self._create, name, shard_rows, schemas.ANSWERS, just_before)
                    for name, shard_rows in group
                ]
                for write in writes:
                    write.result()

    def append_failures(self, rows: Sequence[Row], part: str, just_before: Callable[[], object] = lambda: None) -> None:
        """Commit failures, rows of `schemas.FAILURES`, in one object.

        Args:
            rows: The failures; nothing is written if there are none.
            part: Name of this commit, unique over all runs.
            just_before: Called before the object is written, as in `Storage.create`.
        """
        if rows:
            self._create(f"{self._failures}/part-{part}.parquet", rows, schemas.FAILURES, just_before)

    def answer_keys(self, shards: Iterable[str] | None = None) -> Iterable[AnswerKey]:
        """Yield the keys of committed answers, each once. Only key columns are read.

        Args:
            shards: The shards to read, as `shard_of` gives them; None for all.
        """
        names = [field.name for field in fields(AnswerKey)]
        columns = list(dict.fromkeys([*names, *doubles.COLUMNS]))
        folders = [self._answers] if shards is None else [f"{self._answers}/shard={shard}" for shard in shards]
        for folder in folders:
            objects = self._storage.names(folder)
            parts = zip(objects, self._storage.scan(objects, schemas.ANSWERS, columns), strict=True)
            # One shard holds all answers of a clip.
            for _, of_shard in groupby(parts, key=lambda part: PurePosixPath(part[0]).parent):
                rows = [row for _, part in of_shard for row in part.to_pylist()]
                for number in doubles.without_doubles(rows):
                    yield AnswerKey(**{name: rows[number][name] for name in names})

    def failure_table(self) -> pa.Table:
        """Return the columns `_FAILURE_COLUMNS` of every committed failure."""
        return self._storage.table(self._storage.names(self._failures), schemas.FAILURES, _FAILURE_COLUMNS)

    def failure_keys(self, rows: pa.Table | None = None) -> Iterable[FailureKey]:
        """Yield the keys of committed failures.

        Args:
            rows: Rows of `failure_table`; None for all.
        """
        requests = read_retries(self._storage)
        names = [field.name for field in fields(FailureKey) if field.name != "retried"]
        for row in rows_of(self.failure_table() if rows is None else rows):
            retried = any(request.covers(row) for request in requests)
            yield FailureKey(**{name: row[name] for name in names}, retried=retried)

    def _create(self, name: str, rows: Sequence[Row], schema: pa.Schema, just_before: Callable[[], object]) -> None:
        # Part names contain the run id and a counter: if one is taken, two processes use the same run id.
        self._storage.add(name, to_bytes(rows, schema), just_before)
