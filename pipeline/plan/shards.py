"""The plan of one shard of a job's videos: what its rows' files are, what is known of them, and what is left to do.

Videos are dealt out as answers are dealt out on storage, by the hash of their `video_id`, so that a shard reads its own
answers only. Nothing here knows Ray: `pipeline.plan.planner` calls this in the driver, or in a task for each shard.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.clip import Clip
from pipeline.inputs import QuestionTable, VideoTable
from pipeline.inputs.sources import stat_sources
from pipeline.plan.plan import Plan, changed_sources, plan, row_clip
from pipeline.plan.windows import cut, spanning
from pipeline.store.context import RunContext
from pipeline.store.tokens import TokenStore

# A shard's rows and answers are in the memory of one process.
ROWS_PER_SHARD = 16_384
SHARDS_ON_STORAGE = 256


def num_shards(num_videos: int, rows_per_shard: int) -> int:
    """How many shards to plan so many rows in: a power of two, at most those on storage."""
    wanted = -(-num_videos // rows_per_shard)
    return min(SHARDS_ON_STORAGE, 1 << (wanted - 1).bit_length())


def _shards_on_storage(index: int, count: int) -> list[str] | None:
    """The shards of `answers/`, or of `tokens/`, that are the `index`-th of `count` equal parts; None for all."""
    if count == 1:
        return None
    width = SHARDS_ON_STORAGE // count
    return [f"{number:02x}" for number in range(index * width, (index + 1) * width)]


class CommittedTokens:
    """Content keys as a container: a million take 32 MB, which processes share.

    Args:
        keys: Each 32 hexadecimal digits, as bytes `S32`, ascending.
    """

    def __init__(self, keys: NDArray[np.bytes_]) -> None:
        self._keys = keys

    def __contains__(self, key: object) -> bool:
        wanted = str(key).encode()
        place = bisect_left(self._keys, wanted)
        return place < len(self._keys) and bool(self._keys[place] == wanted)


def list_tokens(store: TokenStore, index: int, count: int) -> NDArray[np.bytes_]:
    """The content keys of a part of `tokens/`, as `CommittedTokens` wants them; later parts have greater keys."""
    return np.sort(np.array([*store.committed(_shards_on_storage(index, count))], dtype="S32"))


@dataclass(frozen=True)
class Snapshot:
    """What every shard is planned with.

    Attributes:
        run: The run.
        questions: The job's questions.
        probed: `ProbeTable.lengths`.
        failed: `Ledger.failure_table`.
        committed: What `tokens/` holds, as for `CommittedTokens`.
    """

    run: RunContext
    questions: QuestionTable
    probed: pa.Table
    failed: pa.Table
    committed: NDArray[np.bytes_]


def survey(rows: VideoTable, snapshot: Snapshot) -> tuple[tuple[list[str], list[Clip]], list[Clip]]:
    """Look up the files of a shard's rows.

    Args:
        rows: The shard's.
        snapshot: What is on storage.

    Returns:
        What the driver is told: `changed_sources`, and the whole files that have to be probed before they can be cut
        into windows. And the clip of each row.

    Raises:
        InputTableError: a row has no value in the job's `source_id_column`.
    """
    job, probed, used_columns = snapshot.run.job, snapshot.probed, snapshot.questions.columns
    videos = list(rows)
    sources = stat_sources(videos, source_id_column=job.source_id_column, storage_options=job.storage_options)
    paths = pa.array([video.video_path for video in videos], pa.string())
    ids = pa.array([source.source_id for source in sources], pa.string())
    ours = pc.or_(pc.is_in(probed["video_path"], value_set=paths), pc.is_in(probed["source_id"], value_set=ids))
    by_path: dict[str, set[str]] = {}
    lengths: dict[str, float] = {}
    for row in probed.filter(ours).to_pylist():
        by_path.setdefault(row["video_path"], set()).add(row["source_id"])
        if row["duration_s"] is not None:  # older probes may lack it
            lengths[row["source_id"]] = row["duration_s"]
    clips = [
        row_clip(video, source, used_columns, lengths.get(source.source_id))
        for video, source in zip(videos, sources, strict=True)
    ]
    unknown = {
        clip.source_id: spanning(clip, None, None)
        for clip in clips
        if job.window_s is not None and clip.duration_s is None and clip.problem is None and clip.size_bytes is not None
    }
    return (changed_sources(clips, by_path), [*unknown.values()]), clips


def plan_shard(clips: list[Clip], index: int, count: int, snapshot: Snapshot, lengths: Mapping[str, float]) -> Plan:
    """Decide what is left to do in a shard.

    Args:
        clips: The clip of each of its rows.
        index: Which of the shards it is.
        count: Shards in all.
        snapshot: What is on storage.
        lengths: Seconds of sources that have been probed since, by `source_id`.

    Raises:
        QuestionChangedError: see `plan`.
    """
    job, ledger = snapshot.run.job, snapshot.run.ledger
    names = pa.array([clip.video_id for clip in clips], pa.string())
    if job.window_s is not None:
        known = (replace(clip, duration_s=lengths.get(clip.source_id, clip.duration_s)) for clip in clips)
        clips = cut(known, window_s=job.window_s, stride_s=job.stride_s or job.window_s)
    return plan(
        clips,
        snapshot.questions,
        committed_tokens=CommittedTokens(snapshot.committed),
        answered=ledger.answer_keys(_shards_on_storage(index, count)),
        failed=ledger.failure_keys(snapshot.failed.filter(pc.is_in(snapshot.failed["video_id"], value_set=names))),
        max_attempts=job.max_attempts,
    )
