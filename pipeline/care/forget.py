"""Remove a video from an output. This is the only command that rewrites parts of the ledger."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.store.keys import content_key, shard_of
from pipeline.store.lease import Lease
from pipeline.store.parquet import table_to_bytes
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage
from pipeline.store.tokens import read_token_columns
from pipeline.store.whole_table import whole_table


@dataclass(frozen=True)
class Forgotten:
    """The number of removed rows of `answers/`, `failures/` and `probes/`, and of removed tokens objects."""

    answers: int
    failures: int
    tokens: int
    probes: int


def token_roots(output: Storage, storage_options: Mapping[str, Any]) -> list[Storage]:
    """Return every place where runs of an output keep tokens: the output, and each cache named by a readable record."""
    caches = {run["job"].get("cache") for run in RunRecords(output).readable()} - {None, False, output.url, "off"}
    return [output, *(Storage(cache, storage_options) for cache in sorted(caches))]


def forget_video(output: Storage, caches: Iterable[Storage], lease: Lease, video_id: str) -> Forgotten:
    """Remove the answers, failures, tokens and probes of a video.

    A part with rows of other videos is first written again without the rows of this video, then removed. If the process
    dies in between, the rows of the other videos exist twice (`verify` reports them) until the command is repeated.
    Tokens that another video with the same bytes shares are removed too; a later run makes them again.

    Args:
        output: The output.
        caches: Every place with tokens of the output, including the output itself, as `token_roots` returns them.
        lease: The lease of the output, so that no other process writes to it.
        video_id: The video to remove.

    Raises:
        OutputLockedError: another run took the lease. Objects already removed stay removed, and the rest stays.
    """
    answer_parts = [name for name in output.names("answers") if f"/shard={shard_of(video_id)}/" in name]
    failure_parts = output.names("failures")

    def is_its_row(rows: pa.Table) -> pa.Array:
        return pc.equal(rows["video_id"], video_id)

    # Tokens and probes first, while answers and failures still tell which of them belong to the video.
    answered = [row for rows in _tables(output, answer_parts) for row in rows.filter(is_its_row(rows)).to_pylist()]
    failed = [row for rows in _tables(output, failure_parts) for row in rows.filter(is_its_row(rows)).to_pylist()]
    clips = {content_key(row["source_id"], row["start_s"], row["end_s"]) for row in answered}
    sources = {row.get("source_id") for row in (*answered, *failed)}
    # A path without its secrets may stand for several files.
    paths = {path for row in failed if (path := row["video_path"]) and "***" not in path}
    runs = {run["run_id"] for run in RunRecords(output).all()}
    tokens = 0
    for cache in caches:
        removed = _forget_tokens(cache, lease, video_id, clips, runs)
        sources.update(removed)
        tokens += len(removed)

    def is_its_probe(rows: pa.Table) -> pa.Array:
        return pc.or_(_is_in(rows["source_id"], sources), _is_in(rows["video_path"], paths))

    probes = _without(output, lease, output.names("probes"), is_its_probe)
    failures = _without(output, lease, failure_parts, is_its_row)
    answers = _without(output, lease, answer_parts, is_its_row)
    return Forgotten(answers, failures, tokens, probes)


def _is_in(column: pa.ChunkedArray, values: set[str | None]) -> pa.Array:
    return pc.is_in(column, pa.array(sorted(value for value in values if value is not None), pa.string()))


def _forget_tokens(cache: Storage, lease: Lease, video_id: str, clips: set[str], runs: set[str]) -> list[str | None]:
    """Remove the tokens of the answered clips, and all tokens that this output's runs made of the video.

    In a shared cache, tokens with the same `video_id` from runs of another output stay: they may be of other bytes.

    Returns:
        The `source_id` of each removed object; None for a damaged object.
    """
    removed = []
    for name in cache.names("tokens"):
        # A damaged object has no columns: it is removed only if its name is that of an answered clip.
        row = read_token_columns(cache, name, ["video_id", "source_id", "run_id"]) or {}
        if PurePosixPath(name).stem in clips or (row.get("video_id") == video_id and row["run_id"] in runs):
            lease.check()
            cache.remove(name)
            removed.append(row.get("source_id"))
    return removed


def _tables(storage: Storage, names: list[str]) -> Iterator[pa.Table]:
    for name in names:
        yield whole_table(storage, name)


def _without(storage: Storage, lease: Lease, names: list[str], is_ours: Callable[[pa.Table], pa.Array]) -> int:
    """Remove rows from some parts and return how many were removed."""
    removed = 0
    for name, table in zip(names, _tables(storage, names), strict=True):
        kept = table.filter(pc.invert(is_ours(table)))
        if kept.num_rows == table.num_rows:
            continue
        removed += table.num_rows - kept.num_rows
        lease.check()
        if kept.num_rows:
            storage.add(name.removesuffix(".parquet") + "-kept.parquet", table_to_bytes(kept))
        storage.remove(name)
    return removed
