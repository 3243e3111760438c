"""Videos of object stores on a node's disk: each file fetched once, in a folder that keeps to its size by itself.

    files/    whole videos, named by their source; least recently used first to go
    leases/   hard links of videos in somebody's hands, and files that are being fetched; named by their process

A reader works on a hard link of its own, so that nothing is taken from under it; what a killed process leaves is
removed by the next one that fetches. Locks are `flock`s, which end with their process.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.clip import Clip
from pipeline.config import SamplingConfig, StagingConfig
from pipeline.errors import VideoNotFoundError
from pipeline.store.filesystem import is_local, resolve
from pipeline.store.keys import digest
from pipeline.store.storage import Storage

_FETCH_SECONDS = 600.0
_GIBIBYTE = 1 << 30
# A span is read from where it lies if that is less than this share of the file. Opening a file and finding the place
# reads megabytes that are not the span's, and other clips of the video may come to this node, too.
_SHARE_READ_IN_PLACE = 1 / 8
_SMALLEST_READ_IN_PLACE = 64 << 20


@dataclass(frozen=True)
class StagedVideo:
    """A video on this node.

    Attributes:
        path: Good until it is given back.
        fetched_bytes: What was transferred for it, now.
    """

    path: str
    fetched_bytes: int


def is_read_in_place(clip: Clip, sampling: SamplingConfig) -> bool:
    """Whether a clip's part of a remote file is better read by ranges than out of a copy of the file."""
    if clip.size_bytes is None or clip.duration_s is None or sampling.decoder == "decord":
        return False  # decord reads whole files
    span_s = min(clip.end_s or clip.duration_s, clip.duration_s) - (clip.start_s or 0.0)
    return clip.size_bytes >= _SMALLEST_READ_IN_PLACE and span_s < _SHARE_READ_IN_PLACE * clip.duration_s


class Staging:
    """The staged videos of this node, shared by its processes.

    Args:
        config: Where, and how much.
        storage_options: For fsspec.
    """

    def __init__(self, config: StagingConfig, storage_options: Mapping[str, Any]) -> None:
        folder = config.directory or str(Path(tempfile.gettempdir()) / f"flashvid-staging-{os.getuid()}")
        self._files, self._leases = Path(folder) / "files", Path(folder) / "leases"
        self._max_bytes = int(config.max_gb * _GIBIBYTE)
        self._storage_options = storage_options

    @contextmanager
    def staged(self, video_path: str, source_id: str) -> Iterator[StagedVideo]:
        """A local file with a video's bytes: the video itself, where it is one.

        Raises:
            VideoNotFoundError: there is no such file.
            StorageUnavailableError: no answer, however often it was asked.
        """
        fs, inner = resolve(video_path, self._storage_options)
        if is_local(fs):
            if not Path(inner).is_file():
                raise VideoNotFoundError(f"no video file at {video_path}")
            yield StagedVideo(inner, 0)
            return
        self._leases.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files.mkdir(exist_ok=True, mode=0o700)
        # What decoders make of a file may depend on its suffix.
        name = digest("staged", source_id) + PurePosixPath(inner).suffix
        lease = self._leases / f"{os.getpid()}-{uuid.uuid4().hex}{PurePosixPath(inner).suffix}"
        try:
            fetched = 0
            if not self._take(name, lease):
                with self._fetching(name):
                    if not self._take(name, lease):  # nobody was faster
                        fetched = self._fetch(video_path, lease)
                        self._keep(lease, name)
            yield StagedVideo(str(lease), fetched)
        finally:
            lease.unlink(missing_ok=True)

    def _take(self, name: str, lease: Path) -> bool:
        """Hold a file that is there, and note that it was used."""
        try:
            os.link(self._files / name, lease)
        except FileNotFoundError:
            return False
        os.utime(lease)  # of both names
        return True

    @contextmanager
    def _fetching(self, name: str) -> Iterator[None]:
        """One process at a time fetches a file; a few files share a lock."""
        with (self._leases / f"lock-{name[:2]}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fetch(self, video_path: str, target: Path) -> int:
        folder, file = video_path.rsplit("/", 1)
        try:
            Storage(folder, self._storage_options).fetch(file, str(target), within_s=_FETCH_SECONDS)
        except FileNotFoundError:
            raise VideoNotFoundError(f"no video file at {video_path}") from None
        return target.stat().st_size

    def _keep(self, lease: Path, name: str) -> None:
        """Make a fetched file everybody's, if there is room for it without the least recently used ones."""
        size = lease.stat().st_size
        self._sweep()
        kept = []
        for path in self._files.iterdir():
            with suppress(FileNotFoundError):
                kept.append((path.stat().st_mtime, path.stat().st_size, path))
        total = sum(of for _, of, _ in kept)
        for _, of, path in sorted(kept):
            if total + size <= self._max_bytes:
                break
            path.unlink(missing_ok=True)  # who holds it, holds it by a link of its own
            total -= of
        if total + size <= self._max_bytes:
            with suppress(FileExistsError):
                os.link(lease, self._files / name)

    def _sweep(self) -> None:
        """Remove what dead processes held."""
        for path in self._leases.iterdir():
            owner = path.name.split("-", 1)[0]
            if owner.isdigit() and not _is_alive(int(owner)):
                path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
