"""Reads the packets of new files, so that bad files fail before any time is spent on decoding them."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa
import ray
from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, WorkerCrashedError

from pipeline.clip import Clip, Failure
from pipeline.cluster.connection import fatal_errors_unwrapped, raise_if_fatal
from pipeline.errors import (
    InputRowError,
    SourceUnreachableError,
    UnreadableVideoError,
    VideoNotFoundError,
    WorkerDiedError,
)
from pipeline.redaction import redacted
from pipeline.resources_config import DecodePoolConfig
from pipeline.store import schemas
from pipeline.store.filesystem import described, is_local, real_error, resolve
from pipeline.store.keys import path_hash
from pipeline.store.parquet import rows_of, to_bytes
from pipeline.store.storage import Storage
from pipeline.video.packet_index import VideoHeader
from pipeline.video.probing import Probe
from pipeline.video.process import DecodeProcess
from pipeline.video.remote_file import RemoteVideo

STAGE = "probe"
# Ray raises these if a process is gone, for any reason.
_DEATHS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError, LocalRayletDiedError)
# A task starts a process of its own, so a large job has larger tasks.
CLIPS_PER_TASK, _MOST_CLIPS_PER_TASK, _TASKS = 32, 256, 64
_THREADS, _CLIPS_PER_THREAD = 16, 16


Found = tuple[Clip, Probe | Failure]
ReadProbe = Callable[[str | RemoteVideo], Probe]


class ProbeTable:
    """Reads and appends to `probes/`, which holds one row per probed file."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def lengths(self) -> pa.Table:
        """Return `video_path`, `path_hash`, `source_id`, `duration_s` and `num_frames` of every probed file.

        `duration_s` is null in probes written by versions that did not record it. `path_hash` stands for
        the whole path if `video_path` was redacted, else null.
        """
        return self._table("video_path", "path_hash", "source_id", "duration_s", "num_frames")

    def headers(self, source_ids: Collection[str]) -> dict[str, VideoHeader]:
        """Return the headers of the sources that were probed, by `source_id`."""
        names = (field.name for field in fields(VideoHeader))
        found: dict[str, VideoHeader] = {}
        for row in rows_of(self._table("source_id", *names)):
            # Probes written by older versions may lack the length.
            if (source_id := row.pop("source_id")) in source_ids and row["duration_s"] is not None:
                found[source_id] = VideoHeader(**row)
        return found

    def paths(self) -> dict[str, str]:
        """Return the `video_path` of every probed source whose path was stored whole, by `source_id`."""
        rows = rows_of(self._table("source_id", "video_path", "path_hash"))
        return {row["source_id"]: row["video_path"] for row in rows if row["path_hash"] is None}

    def _table(self, *columns: str) -> pa.Table:
        return self._storage.table(self._storage.names("probes"), schemas.PROBES, columns)

    def append(self, probes: Sequence[tuple[Clip, Probe]], part: str) -> None:
        """Commit probes, one row per source.

        Args:
            probes: Clips and the probes of their files.
            part: Name of this commit, unique over all runs.
        """
        by_source = {clip.source_id: (clip, probe) for clip, probe in probes}
        rows = [
            {
                "source_id": source_id,
                **_path_columns(clip.video_path or ""),
                "size_bytes": clip.size_bytes,
                "decoder": probe.decoder,
                "decoder_reason": "; ".join(probe.objections) or None,
                **asdict(probe.header),
            }
            for source_id, (clip, probe) in by_source.items()
        ]
        if rows:
            self._storage.create(f"probes/part-{part}.parquet", to_bytes(rows, schemas.PROBES))


def _path_columns(video_path: str) -> dict[str, str | None]:
    shown = redacted(video_path)
    return {"video_path": shown, "path_hash": None if shown == video_path else path_hash(video_path)}


def probe_in_threads(
    clips: Sequence[Clip], storage_options: Mapping[str, Any], limits: DecodePoolConfig
) -> list[Found]:
    """Probe the files of clips in threads of this process; arguments as in `probe_clips`."""
    num_threads = min(_THREADS, 1 + len(clips) // _CLIPS_PER_THREAD)
    with ThreadPoolExecutor(num_threads) as pool:
        parts = [clips[index::num_threads] for index in range(num_threads)]
        several = list(pool.map(lambda part: _probe_chunk(part, storage_options, limits), parts))
    return [(clip, several[number % num_threads][number // num_threads]) for number, clip in enumerate(clips)]


def probe_clips(
    clips: Sequence[Clip], storage_options: Mapping[str, Any], limits: DecodePoolConfig
) -> Iterator[list[Found]]:
    """Probe the files of clips in Ray tasks and yield the results chunk by chunk.

    The packets are read by video decoding processes: a file that makes the parser crash, hang or run out of memory
    fails alone.

    Args:
        clips: Clips whose files to probe.
        storage_options: Options of the job's stores.
        limits: Limits of video decoding; their time and memory limits apply to each file.
    """
    # Ray must not retry a task: `alone` finds the file at fault by probing the chunk's files one by one.
    remote = ray.remote(max_retries=0)(_probe_chunk)

    def start(chunk: Sequence[Clip]) -> Any:  # noqa: ANN401 - Ray's reference to the results
        return remote.remote(chunk, dict(storage_options), limits)

    def alone(clip: Clip) -> Probe | Failure:
        try:
            (found,) = ray.get(start([clip]))
        except _DEATHS:
            message = "the process that probed the file was killed; the next run tries the file again"
            return Failure.of(WorkerDiedError(message), STAGE)
        result: Probe | Failure = found
        return result

    size = min(max(len(clips) // _TASKS, CLIPS_PER_TASK), _MOST_CLIPS_PER_TASK)
    chunks = [clips[i : i + size] for i in range(0, len(clips), size)]
    for chunk, results in zip(chunks, [start(chunk) for chunk in chunks], strict=True):
        with fatal_errors_unwrapped():
            try:
                found = ray.get(results)
            except _DEATHS:
                found = [alone(clip) for clip in chunk]
        yield list(zip(chunk, found, strict=True))


def _probe_chunk(
    clips: Sequence[Clip], storage_options: Mapping[str, Any], limits: DecodePoolConfig
) -> list[Probe | Failure]:
    with closing(DecodeProcess(time_limit_s=limits.time_limit_s, memory_limit_gb=limits.memory_limit_gb)) as process:
        return [_probe(clip, storage_options, process.probe) for clip in clips]


def _probe(clip: Clip, storage_options: Mapping[str, Any], read: ReadProbe) -> Probe | Failure:
    try:
        return probe_file(clip, storage_options, read)
    except Exception as error:  # noqa: BLE001 - becomes a row of failures/ with its traceback
        raise_if_fatal(error)
        return Failure.of(error, STAGE)


def probe_file(clip: Clip, storage_options: Mapping[str, Any], read: ReadProbe) -> Probe:
    """Check a clip's row and read its file's packets, decoding only the first picture.

    Args:
        clip: The clip.
        storage_options: Options of the job's stores.
        read: `DecodeProcess.probe`.

    Raises:
        InputRowError: the row is invalid.
        SourceUnreachableError: storage did not say whether the file exists.
        VideoNotFoundError: the file does not exist.
        UnreadableVideoError: the file has no video stream, is cut short, or ends before the clip starts.
        FlashVidError: see `DecodeProcess.probe`.
    """
    if clip.problem is not None or clip.video_path is None:
        raise InputRowError(clip.problem or "the row has no video_path")
    if clip.unreachable is not None:
        raise SourceUnreachableError(f"storage can't be reached for {clip.video_path}: {clip.unreachable}")
    fs, inner = resolve(clip.video_path, storage_options)
    try:
        size = fs.size(inner)
    except (FileNotFoundError, NotADirectoryError) as error:
        if (real := real_error(error)) is error:
            raise VideoNotFoundError(f"no video file at {clip.video_path}") from None
        raise SourceUnreachableError(f"storage can't be reached for {clip.video_path}: {described(real)}") from error
    if fs.isdir(inner):
        raise VideoNotFoundError(f"{clip.video_path} is a folder, not a video file; give the path of a file")
    if size == 0:
        raise UnreadableVideoError(f"the file is empty: {clip.video_path}; upload it again")
    probe = read(inner if is_local(fs) else RemoteVideo(clip.video_path, storage_options))
    if clip.start_s is not None and clip.start_s >= probe.header.duration_s:
        raise UnreadableVideoError(
            f"start_s is {clip.start_s}, but the video ends at {probe.header.duration_s:.2f} s; give an earlier start_s"
        )
    return probe
