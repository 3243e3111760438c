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
from pipeline.config import JobConfig
from pipeline.inputs import QuestionTable, Video, VideoTable
from pipeline.inputs.sources import stat_sources
from pipeline.inputs.videos import Source
from pipeline.plan.plan import Plan, PlanCounts, RowFailure, changed_sources, plan, whole_clip
from pipeline.plan.windows import cut
from pipeline.store.fingerprint import Fingerprints
from pipeline.store.ledger import Ledger
from pipeline.store.storage import Storage
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
        job: The job.
        prints: Its fingerprints.
        questions: Its questions.
        failed: `Ledger.failure_table`.
        committed: What `tokens/` holds.
    """

    job: JobConfig
    prints: Fingerprints
    questions: QuestionTable
    failed: pa.Table
    committed: NDArray[np.bytes_]


@dataclass(frozen=True)
class Survey:
    """The rows of a shard, and what is known of their files.

    Attributes:
        videos: Rows.
        sources: What the bytes of each are, in the same order.
        changed: `video_id` of every video whose file was probed before with other bytes and never with these.
        durations: Seconds, by `source_id`, of those sources that were probed; None where an older probe lacks it.
    """

    videos: list[Video]
    sources: list[Source]
    changed: list[str]
    durations: Mapping[str, float | None]


@dataclass(frozen=True)
class ShardSummary:
    """What the driver is told of a shard.

    Attributes:
        counts: The plan's numbers.
        failures: The plan's.
        changed: `video_id` of rows whose file was replaced since an earlier run.
        num_unprobed: Length of `ShardPlan.unprobed`.
    """

    counts: PlanCounts
    failures: tuple[RowFailure, ...] = ()
    changed: tuple[str, ...] = ()
    num_unprobed: int = 0


@dataclass(frozen=True)
class ShardPlan:
    """What is to be done in a shard.

    Attributes:
        plan: Of its rows.
        unprobed: Those of `plan.to_encode` whose file, or row, nobody has looked into.
    """

    plan: Plan
    unprobed: tuple[Clip, ...] = ()


def survey(rows: VideoTable, job: JobConfig, probed: pa.Table) -> tuple[tuple[Clip, ...], Survey]:
    """Look up the files of a shard's rows.

    Returns:
        Whole files that have to be probed before they can be cut into windows, as clips; and what is known
        of all.

    Args:
        rows: The shard's.
        job: The job.
        probed: `ProbeTable.lengths`.

    Raises:
        InputTableError: a row has no value in the job's `source_id_column`.
    """
    videos = list(rows)
    sources = stat_sources(videos, source_id_column=job.source_id_column, storage_options=job.storage_options)
    paths = pa.array([video.video_path for video in videos], pa.string())
    ids = pa.array([source.source_id for source in sources], pa.string())
    ours = pc.or_(pc.is_in(probed["video_path"], value_set=paths), pc.is_in(probed["source_id"], value_set=ids))
    by_path: dict[str, set[str]] = {}
    durations: dict[str, float | None] = {}
    present = {source.source_id for source in sources}
    for row in probed.filter(ours).to_pylist():
        by_path.setdefault(row["video_path"], set()).add(row["source_id"])
        if row["source_id"] in present:
            durations[row["source_id"]] = row["duration_s"] or durations.get(row["source_id"])
    found = Survey(videos, sources, changed_sources(videos, sources, by_path), durations)
    return (() if job.window_s is None else _without_duration(found)), found


def _without_duration(surveyed: Survey) -> tuple[Clip, ...]:
    unknown = {
        source.source_id: whole_clip(replace(video, start_s=None, end_s=None), source)
        for video, source in zip(surveyed.videos, surveyed.sources, strict=True)
        if source.exists and video.problem is None and surveyed.durations.get(source.source_id) is None
    }
    return tuple(unknown.values())


def plan_shard(
    surveyed: Survey, index: int, count: int, snapshot: Snapshot, lengths: Mapping[str, float]
) -> tuple[ShardSummary, ShardPlan]:
    """Decide what is left to do in a shard.

    Args:
        surveyed: Its rows.
        index: Which of the shards it is.
        count: Shards in all.
        snapshot: What is on storage.
        lengths: Seconds of sources that have been probed since, by `source_id`.

    Raises:
        QuestionChangedError: see `plan`.
    """
    job, prints = snapshot.job, snapshot.prints
    durations = {name: length for name, length in {**surveyed.durations, **lengths}.items() if length}
    videos, sources = surveyed.videos, surveyed.sources
    names = pa.array([video.video_id for video in videos], pa.string())
    if job.window_s is not None:
        stride_s = job.stride_s or job.window_s
        videos, sources = cut(videos, sources, durations, window_s=job.window_s, stride_s=stride_s)
    ledger = Ledger(Storage(job.output, job.storage_options), prints.answers)
    todo = plan(
        videos,
        sources,
        snapshot.questions,
        committed_tokens=CommittedTokens(snapshot.committed),
        answered=ledger.answer_keys(_shards_on_storage(index, count)),
        failed=ledger.failure_keys(snapshot.failed.filter(pc.is_in(snapshot.failed["video_id"], value_set=names))),
        max_attempts=job.max_attempts,
        durations=durations,
    )
    known = surveyed.durations.keys() | durations.keys()
    unprobed = tuple(clip for clip in todo.to_encode if clip.problem is not None or clip.source_id not in known)
    summary = ShardSummary(PlanCounts.of(todo), todo.failures, tuple(surveyed.changed), len(unprobed))
    return summary, ShardPlan(todo, unprobed)
