"""Probe: what the packets of new files say, before anything is spent on decoding them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from typing import IO, Any

import pyarrow as pa
import ray
from fsspec.implementations.local import LocalFileSystem
from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, WorkerCrashedError

from pipeline.clip import Clip, Failure
from pipeline.config import DecodePoolConfig
from pipeline.errors import (
    DecodeMemoryError,
    InputRowError,
    SourceUnreachableError,
    UnreadableVideoError,
    VideoNotFoundError,
    WorkerDiedError,
)
from pipeline.store import schemas
from pipeline.store.filesystem import resolve
from pipeline.store.parquet import to_bytes
from pipeline.store.storage import Storage
from pipeline.video.demux import opened, read_index
from pipeline.video.limits import limited
from pipeline.video.packet_index import VideoHeader
from pipeline.video.reader_choice import Decoder, automatic

STAGE = "probe"
# How Ray says that a process is gone, whoever ended it.
_DEATHS = (WorkerCrashedError, OutOfMemoryError, NodeDiedError, LocalRayletDiedError)
CLIPS_PER_TASK = 32
_THREADS = 16


@dataclass(frozen=True)
class Probe:
    """What was found out about a file.

    Attributes:
        header: Of the file.
        decoder: The one that reads it exactly, where the job leaves that to us.
    """

    header: VideoHeader
    decoder: Decoder


Found = tuple[Clip, Probe | Failure]


class ProbeTable:
    """`probes/`: what is known of every file seen so far, made once and added to."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def lengths(self) -> pa.Table:
        """`video_path`, `source_id` and `duration_s` of every file probed; older probes may lack the length."""
        columns = ["video_path", "source_id", "duration_s"]
        empty = pa.schema([schemas.PROBES.field(name) for name in columns]).empty_table()
        return pa.concat_tables([empty, *self._read(columns)])

    def headers(self, source_ids: Collection[str]) -> dict[str, VideoHeader]:
        """What is known of these sources, of those that were probed."""
        names = (field.name for field in fields(VideoHeader))
        found: dict[str, VideoHeader] = {}
        for row in self._rows("source_id", *names):
            # Older probes may lack the length.
            if (source_id := row.pop("source_id")) in source_ids and row["duration_s"] is not None:
                found[source_id] = VideoHeader(**row)
        return found

    def paths(self) -> dict[str, str]:
        """`video_path` of every source that was probed, by `source_id`."""
        return {row["source_id"]: row["video_path"] for row in self._rows("source_id", "video_path")}

    def _rows(self, *columns: str) -> Iterator[dict[str, Any]]:
        for part in self._read(columns):
            yield from part.to_pylist()

    def _read(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        return self._storage.scan(self._storage.names("probes"), schemas.PROBES, columns)

    def append(self, probes: Sequence[tuple[Clip, Probe]], part: str) -> None:
        """Commit what was found out.

        Args:
            probes: The probed clips and what their files say.
            part: Name of this commit, unique over all runs.
        """
        by_source = {clip.source_id: (clip, probe) for clip, probe in probes}
        rows = [
            {
                "source_id": source_id,
                "video_path": clip.video_path,
                "size_bytes": clip.size_bytes,
                "decoder": probe.decoder,
                **asdict(probe.header),
            }
            for source_id, (clip, probe) in by_source.items()
        ]
        if rows:
            self._storage.create(f"probes/part-{part}.parquet", to_bytes(rows, schemas.PROBES))


def probe_in_threads(clips: Sequence[Clip], storage_options: Mapping[str, Any]) -> list[Found]:
    """Read the packets of clips' files in this process, without limits."""
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(zip(clips, pool.map(lambda clip: _probe(clip, storage_options), clips), strict=True))


def probe_clips(
    clips: Sequence[Clip], storage_options: Mapping[str, Any], limits: DecodePoolConfig
) -> Iterator[list[Found]]:
    """Read the packets of clips' files in Ray tasks, some at a time.

    A file that crashes a parser, hangs it or swells it costs only itself; each has the time and the memory that
    `limits` give to decoding.
    """
    # No retries by Ray: which file it was is found out here, by probing the chunk's files one by one.
    remote = ray.remote(max_retries=0)(_probe_chunk)

    def start(chunk: Sequence[Clip]) -> Any:  # noqa: ANN401 - where Ray keeps the results
        return remote.remote(chunk, dict(storage_options), limits)

    def alone(clip: Clip) -> Probe | Failure:
        try:
            (found,) = ray.get(start([clip]))
        except _DEATHS:
            message = f"the process that read the file's packets died, or did not end within {limits.time_limit_s:g} s"
            return Failure.of(WorkerDiedError(message), STAGE)
        result: Probe | Failure = found
        return result

    chunks = [clips[i : i + CLIPS_PER_TASK] for i in range(0, len(clips), CLIPS_PER_TASK)]
    for chunk, results in zip(chunks, [start(chunk) for chunk in chunks], strict=True):
        try:
            found = ray.get(results)
        except _DEATHS:
            found = [alone(clip) for clip in chunk]
        yield list(zip(chunk, found, strict=True))


def _probe_chunk(
    clips: Sequence[Clip], storage_options: Mapping[str, Any], limits: DecodePoolConfig
) -> list[Probe | Failure]:
    return [_probe(clip, storage_options, limits) for clip in clips]


def _limited(limits: DecodePoolConfig | None) -> AbstractContextManager[None]:
    if limits is None:
        return nullcontext()
    return limited(time_limit_s=limits.time_limit_s, memory_limit=int(limits.memory_limit_gb * (1 << 30)))


def _probe(clip: Clip, storage_options: Mapping[str, Any], limits: DecodePoolConfig | None = None) -> Probe | Failure:
    try:
        with _limited(limits):
            return probe_file(clip, storage_options)
    except Exception as error:  # noqa: BLE001 - becomes a row of failures/ with its traceback
        if limits is None or not isinstance(error, MemoryError):
            return Failure.of(error, STAGE)
        limit = f"{limits.memory_limit_gb:g} GiB (resources.decode.memory_limit_gb)"
        return Failure.of(DecodeMemoryError(f"reading its packets takes more than {limit}"), STAGE)


def probe_file(clip: Clip, storage_options: Mapping[str, Any]) -> Probe:
    """Check a clip's row and read its file's packets, decoding the first picture only.

    Raises:
        InputRowError: the row itself is wrong.
        SourceUnreachableError: storage did not say whether there is a file.
        VideoNotFoundError: no file.
        UnreadableVideoError: not a video with a video stream, cut short, or shorter than the clip's start.
    """
    if clip.problem is not None or clip.video_path is None:
        raise InputRowError(clip.problem or "the row has no video_path")
    if clip.unreachable is not None:
        raise SourceUnreachableError(f"{clip.video_path} can't be reached ({clip.unreachable})")
    fs, inner = resolve(clip.video_path, storage_options)
    try:
        size = fs.size(inner)
    except (FileNotFoundError, NotADirectoryError):
        raise VideoNotFoundError(f"no video file at {clip.video_path}") from None
    if fs.isdir(inner):
        raise VideoNotFoundError(f"{clip.video_path} is a folder, not a video file")
    if size == 0:
        raise UnreadableVideoError(f"the file is empty: {clip.video_path}")
    if isinstance(fs, LocalFileSystem):
        probe = read_probe(inner)
    else:
        with fs.open(inner, "rb") as file:
            probe = read_probe(file)
    if clip.start_s is not None and clip.start_s >= probe.header.duration_s:
        raise UnreadableVideoError(f"start_s is {clip.start_s}, the video ends at {probe.header.duration_s:.2f} s")
    return probe


def read_probe(file: str | IO[bytes]) -> Probe:
    """Read the packets of a local file or of an open one.

    Raises:
        UnreadableVideoError: not a video with pictures, or cut short; says which.
    """
    with opened(file) as container:
        index = read_index(container)
    return Probe(index.header, automatic(index))
