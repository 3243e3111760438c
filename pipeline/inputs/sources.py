"""Identify the bytes of videos. The identity decides whether earlier work is still valid."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

from pipeline.errors import InputTableError
from pipeline.inputs.videos import Source, Video
from pipeline.store.filesystem import described, real_error, resolve
from pipeline.store.keys import digest

_STAT_THREADS = 32


def stat_sources(
    videos: Sequence[Video], *, source_id_column: str | None, storage_options: Mapping[str, Any]
) -> list[Source]:
    """Identify the bytes of every video without reading them, in the order of `videos`.

    A missing or unreachable file is not an error: its `Source` says so.

    Args:
        videos: Rows of the videos table.
        source_id_column: Column that identifies the bytes (a checksum, a version), instead of path, size and time.
        storage_options: Options for fsspec.

    Raises:
        InputTableError: a row has no value in `source_id_column`.
    """
    if source_id_column is not None:
        for video in videos:
            if video.columns.get(source_id_column) in (None, ""):
                raise InputTableError(
                    f"has no {source_id_column!r}, which is the job's source_id_column: fill it in",
                    f"video_id {video.video_id!r}",
                )

    filesystems: dict[str, Any] = {}

    def stat(video: Video) -> Source:
        if video.video_path is None or video.refused:
            return Source(digest("missing", video.video_path), None)
        protocol = video.video_path.split("://", 1)[0] if "://" in video.video_path else ""
        try:
            if protocol not in filesystems:
                filesystems[protocol] = resolve(video.video_path, storage_options)[0]
            fs = filesystems[protocol]
            info = fs.info(fs._strip_protocol(video.video_path))
        except Exception as caught:  # noqa: BLE001 - becomes a failure of this row in the probe stage
            error = real_error(caught)
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                return Source(digest("missing", video.video_path), None)
            # No permission, no credentials, an unknown protocol: each filesystem has its own errors for these.
            reason = f"{type(error).__name__}: {described(error)}"
            return Source(digest("unreachable", video.video_path), None, unreachable=reason)
        named = video.columns.get(source_id_column) if source_id_column else None
        state = [str(named)] if named is not None else [video.video_path, info["size"], _state(info)]
        return Source(digest("source", *state), info["size"])

    # Only remote files use threads: a local stat takes less time than waking a thread.
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        waiting = [pool.submit(stat, video) if "://" in (video.video_path or "") else None for video in videos]
        return [stat(video) if reply is None else reply.result() for video, reply in zip(videos, waiting, strict=True)]


def _state(info: Mapping[str, Any]) -> str:
    """Return a text that changes with the bytes: the store's etag, else the modification time; "" if it has neither."""
    for name in ("ETag", "etag", "mtime", "LastModified", "updated"):
        if (value := info.get(name)) is not None:
            return value.isoformat() if isinstance(value, datetime) else str(value)
    return ""
