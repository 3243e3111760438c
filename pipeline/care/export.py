"""Copy the latest version of each answer to a few large sorted files. The ledger stays unchanged."""

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
    """The result of an export.

    Attributes:
        fingerprint: The `answers_fingerprint` of the exported answers.
        rows: Number of answers written.
        superseded: Number of answers left out: earlier versions, answers about replaced files, and duplicates.
        files: Names of the files below the target.
    """

    fingerprint: str
    rows: int
    superseded: int
    files: tuple[str, ...]


def export_answers(output: Storage, target: Storage, fingerprint: str | None = None) -> Exported:
    """Write the answers of one fingerprint to an empty folder, sorted by video, span and question in each file.

    All rows of a video are in one file. Memory use is limited to the rows of one file.

    Args:
        output: The output that holds the answers.
        target: An empty folder outside of the output.
        fingerprint: The `answers_fingerprint`; default: that of the latest run.

    Raises:
        ConfigurationError: the output has no such answers, or the target is not empty.
        NewerFormatError: see `RunRecords.all`; only without `fingerprint`.
    """
    if fingerprint is None:
        fingerprint = RunRecords(output).latest()["answers_fingerprint"]
    shards = output.by_folder(f"answers/fingerprint={fingerprint}").values()
    if not shards:
        raise ConfigurationError(f"has no answers under fingerprint {fingerprint}", output.url)
    if target.names(""):
        raise ConfigurationError("is not empty: export to an empty or new folder", target.url)
    rows = seen = 0
    files: list[str] = []
    for table in _files(output, shards):
        latest = table.take(latest_rows(table.select(list(dict.fromkeys([*KEY, *ORDER]))).to_pylist()))
        latest = latest.sort_by([(name, "ascending") for name in KEY])
        files.append(f"part-{len(files):05d}.parquet")
        if not target.create(files[-1], table_to_bytes(latest)):
            raise ConfigurationError(
                f"another process wrote {files[-1]} during the export: export to another folder", target.url
            )
        rows, seen = rows + latest.num_rows, seen + table.num_rows
    return Exported(fingerprint, rows, seen - rows, tuple(files))


def _files(output: Storage, shards: Iterable[Sequence[str]]) -> Iterator[pa.Table]:
    """Yield tables of consecutive shards, each with at least `_ROWS_PER_FILE` rows except the last."""
    waiting: list[pa.Table] = []
    for names in shards:
        waiting += output.scan(names, schemas.ANSWERS, schemas.ANSWERS.names)
        if sum(part.num_rows for part in waiting) >= _ROWS_PER_FILE:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)
