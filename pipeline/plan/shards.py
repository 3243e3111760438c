"""Plans one shard of a job's videos: identifies the files of its rows, looks up their probes, and plans what is left.

Videos are split into shards by the hash of their `video_id`, as answers are on storage, so that a shard reads only its
own answers. This module does not use Ray: `pipeline/plan/planner.py` calls it in the driver or in one task per shard.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.clip import Clip
from pipeline.inputs import QuestionTable, VideoTable
from pipeline.inputs.allowed_roots import source_options
from pipeline.inputs.sources import stat_sources
from pipeline.plan.plan import Plan, changed_sources, plan, row_clip
from pipeline.plan.windows import cut, spanning
from pipeline.store.context import RunContext
from pipeline.store.keys import path_hash
from pipeline.store.tokens import TokenStore

# Seconds and pictures of a file.
Length = tuple[float, int | None]

# One process holds a shard's rows and answers in memory.
ROWS_PER_SHARD = 16_384
SHARDS_ON_STORAGE = 256


def num_shards(num_videos: int, rows_per_shard: int) -> int:
    """Return the number of shards in which to plan `num_videos` videos: a power of two, at most `SHARDS_ON_STORAGE`."""
    wanted = -(-num_videos // rows_per_shard)
    return min(SHARDS_ON_STORAGE, 1 << (wanted - 1).bit_length())


def _shards_on_storage(index: int, count: int) -> list[str] | None:
    """Return the shards of `answers/` or `tokens/` in the `index`-th of `count` equal parts; None stands for all."""
    if count == 1:
        return None
    width = SHARDS_ON_STORAGE // count
    return [f"{number:02x}" for number in range(index * width, (index + 1) * width)]


class CommittedTokens:
    """Tests whether a content key is committed, by binary search in an array that processes share.

    A million keys take 32 MB.

    Args:
        keys: `S32 [N]`, content keys of 32 hexadecimal digits, ascending.
    """

    def __init__(self, keys: NDArray[np.bytes_]) -> None:
        self._keys = keys

    def __contains__(self, key: object) -> bool:
        wanted = str(key).encode()
        place = bisect_left(self._keys, wanted)
        return place < len(self._keys) and bool(self._keys[place] == wanted)


def list_tokens(store: TokenStore, index: int, count: int) -> NDArray[np.bytes_]:
    """Return the content keys in the `index`-th of `count` parts of `tokens/`.

    Returns:
        `S32 [N]`, ascending; every key of a later part is greater, so the parts can be concatenated for
        `CommittedTokens`.
    """
    return np.sort(np.array([*store.committed(_shards_on_storage(index, count))], dtype="S32"))


@dataclass(frozen=True)
class Snapshot:
    """Holds what planning any shard needs.

    Attributes:
        run: The run.
        questions: The job's questions.
        probed: Table from `ProbeTable.lengths`.
        failed: Table from `Ledger.failure_table`.
        committed: `S32 [N]`, the content keys in `tokens/`, ascending.
    """

    run: RunContext
    questions: QuestionTable
    probed: pa.Table
    failed: pa.Table
    committed: NDArray[np.bytes_]


def survey(rows: VideoTable, snapshot: Snapshot) -> tuple[tuple[list[str], list[Clip]], list[Clip]]:
    """Look up the files of a shard's rows.

    Args:
        rows: The shard's rows of the videos table.
        snapshot: What is on storage.

    Returns:
        A pair. First, what the driver needs: the result of `changed_sources`, and a clip of each whole file that has to
        be probed before it can be cut into windows. Second, the clip of each row.

    Raises:
        InputTableError: a row has no value in the job's `source_id_column`.
    """
    job, probed, used_columns = snapshot.run.job, snapshot.probed, snapshot.questions.columns
    videos = list(rows)
    sources = stat_sources(
        videos,
        source_id_column=job.source_id_column,
        storage_options=source_options(job.storage_options, job.allowed_roots),
    )
    paths = pa.array([video.video_path for video in videos], pa.string())
    ids = pa.array([source.source_id for source in sources], pa.string())
    ours = pc.or_(pc.is_in(probed["video_path"], value_set=paths), pc.is_in(probed["source_id"], value_set=ids))
    # Probes hold a hash instead of a path with secrets. Other paths need none.
    hashed: dict[str, str] = {}
    if probed["path_hash"].null_count < probed.num_rows:
        hashed = {path_hash(path): path for path in paths.to_pylist() if path is not None}
        ours = pc.or_(ours, pc.is_in(probed["path_hash"], value_set=pa.array(hashed, pa.string())))
    by_path: dict[str, set[str]] = {}
    lengths: dict[str, Length] = {}
    for row in probed.filter(ours).to_pylist():
        path = row["video_path"] if row["path_hash"] is None else hashed.get(row["path_hash"], "")
        by_path.setdefault(path, set()).add(row["source_id"])
        if row["duration_s"] is not None:  # probes written by older versions may lack it
            lengths[row["source_id"]] = row["duration_s"], row["num_frames"]
    clips = [
        row_clip(video, source, used_columns, *lengths.get(source.source_id, (None, None)))
        for video, source in zip(videos, sources, strict=True)
    ]
    unknown = {
        clip.source_id: spanning(clip, None, None)
        for clip in clips
        if job.window_s is not None and clip.duration_s is None and clip.problem is None and clip.size_bytes is not None
    }
    return (changed_sources(clips, by_path), [*unknown.values()]), clips


def plan_shard(clips: list[Clip], index: int, count: int, snapshot: Snapshot, lengths: Mapping[str, Length]) -> Plan:
    """Return the work that is left to do in a shard.

    Args:
        clips: The clip of each row of the shard.
        index: Index of the shard, from 0.
        count: Number of shards.
        snapshot: What is on storage.
        lengths: Lengths of files probed after `survey`, by `source_id`.

    Raises:
        QuestionChangedError: a `question_id` has answers to another text.
    """
    job, ledger = snapshot.run.job, snapshot.run.ledger
    names = pa.array([clip.video_id for clip in clips], pa.string())
    if job.window_s is not None:
        measured = (_measured(clip, lengths) for clip in clips)
        stride_s = job.stride_s or job.window_s
        clips = cut(measured, window_s=job.window_s, stride_s=stride_s, max_windows=job.max_windows)
    return plan(
        clips,
        snapshot.questions,
        committed_tokens=CommittedTokens(snapshot.committed),
        answered=ledger.answer_keys(_shards_on_storage(index, count)),
        failed=ledger.failure_keys(snapshot.failed.filter(pc.is_in(snapshot.failed["video_id"], value_set=names))),
        max_attempts=job.max_attempts,
    )


def _measured(clip: Clip, lengths: Mapping[str, Length]) -> Clip:
    if clip.source_id not in lengths:
        return clip
    duration_s, num_frames = lengths[clip.source_id]
    return replace(clip, duration_s=duration_s, num_frames=num_frames)
