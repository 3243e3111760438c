"""A copy of the answers for readers: the latest of each, sorted, in few large files. The ledger stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa

from flashvid.errors import ConfigurationError
from pipeline.store import schemas
from pipeline.store.parquet import table_to_bytes
from pipeline.store.results import KEY, ORDER, latest_rows
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

_ROWS_PER_FILE = 500_000


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        fingerprint: The `answers_fingerprint` whose answers they are.
        rows: Answers written.
        superseded: Answers left out: of files that were replaced, or committed twice.
        files: Names below the target.
    """

    fingerprint: str
    rows: int
    superseded: int
    files: tuple[str, ...]


def export_answers(output: Storage, target: Storage, fingerprint: str | None = None) -> Exported:
    """Write the answers of one fingerprint to a new place, sorted by video, span and question.

    All rows of a video are in one file. Memory holds one file's rows, whatever the number of answers.

    Args:
        output: Where the answers are.
        target: An empty folder, elsewhere.
        fingerprint: Whose answers; default: those of the latest run.

    Raises:
        ConfigurationError: no such answers, or the target is not empty.
    """
    if fingerprint is None:
        fingerprint = RunRecords(output).latest()["answers_fingerprint"]
    shards = output.by_folder(f"answers/fingerprint={fingerprint}").values()
    if not shards:
        raise ConfigurationError(f"has no answers under fingerprint {fingerprint}", output.url)
    if target.names(""):
        raise ConfigurationError("is not empty: an export goes to a new place", target.url)
    rows = seen = 0
    files: list[str] = []
    for table in _files(output, shards):
        latest = table.take(latest_rows(table.select([*KEY, *ORDER]).to_pylist()))
        latest = latest.sort_by([(name, "ascending") for name in KEY])
        files.append(f"part-{len(files):05d}.parquet")
        if not target.create(files[-1], table_to_bytes(latest)):
            raise ConfigurationError(f"{files[-1]} was written by somebody else", target.url)
        rows, seen = rows + latest.num_rows, seen + table.num_rows
    return Exported(fingerprint, rows, seen - rows, tuple(files))


def _files(output: Storage, shards: Iterable[Sequence[str]]) -> Iterator[pa.Table]:
    """Neighbouring shards together, until they fill a file."""
    waiting: list[pa.Table] = []
    for names in shards:
        waiting += output.scan(names, schemas.ANSWERS, schemas.ANSWERS.names)
        if sum(part.num_rows for part in waiting) >= _ROWS_PER_FILE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
