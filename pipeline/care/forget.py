"""Taking a video out of an output: the one command that writes parts of the ledger anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.store.keys import content_key, shard_of
from pipeline.store.lease import Lease
from pipeline.store.parquet import from_bytes, table_to_bytes
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage


@dataclass(frozen=True)
class Forgotten:
    """What was removed: rows of the tables, and objects of tokens."""

    answers: int
    failures: int
    tokens: int
    probes: int


def token_roots(output: Storage, storage_options: Mapping[str, Any]) -> list[Storage]:
    """Where the runs of an output keep their tokens: the output itself, and every cache that a run names."""
    caches = {run["job"].get("cache") for run in RunRecords(output).all()} - {None, output.url, "off"}
    return [output, *(Storage(cache, storage_options) for cache in sorted(caches))]


def forget_video(output: Storage, caches: Iterable[Storage], lease: Lease, video_id: str) -> Forgotten:
    """Remove a video's answers, failures and tokens, and what was found out about its file.

    A part that has rows of other videos is written again without this one's, and then removed. Where the process dies
    in between, the others' rows are there twice (`verify` finds them) until the same command has been given again.
    Tokens of the same bytes go too if another video has them; they are made again when needed.

    Args:
        output: The output.
        caches: Every place with tokens of it, the output itself included: `token_roots`.
        lease: Of the output: nobody else writes meanwhile.
        video_id: The video.

    Raises:
        OutputLockedError: another run has taken the lease; what is removed stays removed, and the rest stays.
    """
    sources: set[str] = set()
    clips: set[str] = set()
    answer_parts = [name for name in output.names("answers") if f"/shard={shard_of(video_id)}/" in name]
    failure_parts = output.names("failures")
    # Tokens and probes first, as long as answers and failures still say which are the video's.
    for table in _tables(output, answer_parts):
        for row in table.filter(pc.equal(table["video_id"], video_id)).to_pylist():
            sources.add(row["source_id"])
            clips.add(content_key(row["source_id"], row["start_s"], row["end_s"]))
    paths: set[str] = set()
    for table in _tables(output, failure_parts):
        paths.update(table.filter(pc.equal(table["video_id"], video_id))["video_path"].to_pylist())
    runs = {run["run_id"] for run in RunRecords(output).all()}
    tokens = 0
    for cache in caches:
        removed = _forget_tokens(cache, lease, video_id, clips, runs)
        sources |= removed.sources
        tokens += removed.objects

    def is_its_probe(rows: pa.Table) -> pa.Array:
        return pc.or_(_is_in(rows["source_id"], sources), _is_in(rows["video_path"], paths))

    def is_its_row(rows: pa.Table) -> pa.Array:
        return pc.equal(rows["video_id"], video_id)

    probes = _without(output, lease, output.names("probes"), is_its_probe)
    failures = _without(output, lease, failure_parts, is_its_row)
    answers = _without(output, lease, answer_parts, is_its_row)
    return Forgotten(answers, failures, tokens, probes)


def _is_in(column: pa.ChunkedArray, values: set[str]) -> pa.Array:
    return pc.is_in(column, pa.array(sorted(value for value in values if value is not None), pa.string()))


@dataclass(frozen=True)
class _Removed:
    objects: int
    sources: set[str]


def _forget_tokens(cache: Storage, lease: Lease, video_id: str, clips: set[str], runs: set[str]) -> _Removed:
    """Remove the tokens of the answered clips, and those that this output's runs made of the video.

    In a shared cache another output may have other bytes under the same `video_id`: those stay.
    """
    removed = 0
    sources: set[str] = set()
    for name in cache.names("tokens"):
        row = _origin(cache, name)
        if PurePosixPath(name).stem in clips or (row["video_id"] == video_id and row["run_id"] in runs):
            sources.update(source for source in (row["source_id"],) if source is not None)
            lease.check()
            cache.remove(name)
            removed += 1
    return _Removed(removed, sources)


def _origin(cache: Storage, name: str) -> Mapping[str, str | None]:
    columns = ["video_id", "source_id", "run_id"]
    try:
        with cache.fs.open(cache.path(name), "rb") as file:
            (row,) = pq.read_table(file, columns=columns).to_pylist()
    except (pa.ArrowInvalid, ValueError):
        # A damaged object says nothing of itself: it goes with its clip, and is otherwise left to `verify`.
        return dict.fromkeys(columns)
    return {name: row[name] for name in columns}


def _tables(storage: Storage, names: list[str]) -> Iterator[pa.Table]:
    for name in names:
        yield from_bytes(storage.read(name))


def _without(storage: Storage, lease: Lease, names: list[str], is_ours: Callable[[pa.Table], pa.Array]) -> int:
    """Take rows out of some parts; how many they were."""
    removed = 0
    for name, table in zip(names, _tables(storage, names), strict=True):
        kept = table.filter(pc.invert(is_ours(table)))
        if kept.num_rows == table.num_rows:
            continue
        removed += table.num_rows - kept.num_rows
        lease.check()
        if kept.num_rows and not storage.create(name.removesuffix(".parquet") + "-kept.parquet", table_to_bytes(kept)):
            raise FileExistsError(f"{name} was written again by somebody else")
        storage.remove(name)
    return removed
