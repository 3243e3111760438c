"""Stage videos of object stores on a node's disk: each file is fetched once, into a folder of limited size.

    files/    whole videos, named by their source; the least recently used are deleted first
    leases/   hard links of videos in use, and files that are being fetched; named by their process

Each reader has its own hard link, so deleting a file does not affect it. The next process that fetches a file removes
what a killed process left. Locks use `flock`, so they end with their process.
"""

import fcntl
import os
import stat
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.clip import Clip
from pipeline.config import SamplingConfig
from pipeline.errors import SourceUnreachableError, StorageUnavailableError, VideoNotFoundError
from pipeline.resources_config import StagingConfig
from pipeline.store.filesystem import is_local, resolve
from pipeline.store.keys import digest
from pipeline.store.lease import process_exists
from pipeline.store.storage import Storage

_FETCH_SECONDS = 600.0
_GIBIBYTE = 1 << 30
# A span shorter than this share of the file is read in place. The share is small because opening a file and seeking
# reads megabytes outside of the span, and because other clips of the video may follow on this node.
_SHARE_READ_IN_PLACE = 1 / 8
_SMALLEST_READ_IN_PLACE = 64 << 20


@dataclass(frozen=True)
class StagedVideo:
    """A video on this node.

    Attributes:
        path: Local path; valid until the `with` block of `Staging.staged` ends.
        fetched_bytes: Bytes transferred for it in this call; 0 for a local or already staged file.
    """

    path: str
    fetched_bytes: int


def is_read_in_place(clip: Clip, sampling: SamplingConfig) -> bool:
    """Return whether a clip of a remote file is cheaper to read by ranges than from a copy of the whole file."""
    if clip.size_bytes is None or clip.duration_s is None or sampling.decoder == "decord":
        return False  # decord reads only whole local files
    span_s = min(clip.end_s or clip.duration_s, clip.duration_s) - (clip.start_s or 0.0)
    return clip.size_bytes >= _SMALLEST_READ_IN_PLACE and span_s < _SHARE_READ_IN_PLACE * clip.duration_s


def staging_folder(directory: str | None) -> Path:
    """Return the folder of this user's staged videos, which need not exist.

    Args:
        directory: Folder that the job names, in which each user has one; None for the user's cache folder, or, without
            a home that can be written, the system's temporary folder.
    """
    name = f"flashvid-staging-{os.getuid()}"
    if directory is not None:
        return Path(directory) / name
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or one that is read-only
        return Path(tempfile.gettempdir()) / name
    return (cache if os.access(cache, os.W_OK) else Path(tempfile.gettempdir())) / name


def check_own(folder: Path) -> None:
    """Check that only this user can change a folder: a link, or another owner, could make us read other videos.

    Raises:
        ConfigurationError: it is a link, has another owner, or others may write to it.
    """
    found = folder.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or mode & 0o022:
        raise ConfigurationError(
            f"can't be used for staged videos: it must be a folder of user {os.getuid()}, not a link, which nobody "
            f"else may write to, but its owner is {found.st_uid} and its mode {mode:04o}; remove it, or set "
            "resources.staging.directory",
            str(folder),
        )


class Staging:
    """The staged videos of this node, shared by its processes.

    Args:
        config: The folder and its size limit.
        storage_options: Options for fsspec.
    """

    def __init__(self, config: StagingConfig, storage_options: Mapping[str, Any]) -> None:
        self._folder = staging_folder(config.directory)
        self._files, self._leases = self._folder / "files", self._folder / "leases"
        self._max_bytes = int(config.max_gb * _GIBIBYTE)
        self._storage_options = storage_options

    @contextmanager
    def staged(self, video_path: str, source_id: str) -> Iterator[StagedVideo]:
        """Yield a local file with a video's bytes. A video that is a local file is yielded itself.

        Args:
            video_path: Path or URL of the video.
            source_id: Identity of its bytes; names the staged file.

        Raises:
            VideoNotFoundError: there is no such file.
            SourceUnreachableError: the store did not answer repeated requests.
            DiskError: the staging folder's disk is full or read-only.
            ConfigurationError: the staging folder may be changed by another user.
        """
        fs, inner = resolve(video_path, self._storage_options)
        if is_local(fs):
            if not Path(inner).is_file():
                raise VideoNotFoundError(f"no video file at {video_path}")
            yield StagedVideo(inner, 0)
            return
        for place in (self._folder, self._files, self._leases):
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            check_own(place)
        # Keep the suffix, because decoders may use it.
        name = digest("staged", source_id) + PurePosixPath(inner).suffix
        lease = self._leases / f"{os.getpid()}-{uuid.uuid4().hex}{PurePosixPath(inner).suffix}"
        try:
            fetched = 0
            if not self._take(name, lease):
                with self._fetching(name):
                    if not self._take(name, lease):  # no other process staged it in the meantime
                        fetched = self._fetch(video_path, lease)
                        self._keep(lease, name)
            yield StagedVideo(str(lease), fetched)
        finally:
            lease.unlink(missing_ok=True)

    def _take(self, name: str, lease: Path) -> bool:
        """Link a staged file to `lease` and mark it as used now; return False if it is not staged."""
        try:
            os.link(self._files / name, lease)
        except FileNotFoundError:
            return False
        os.utime(lease)  # a hard link shares its times with the staged file
        return True

    @contextmanager
    def _fetching(self, name: str) -> Iterator[None]:
        """Let one process at a time fetch a file. Files whose names start with the same two digits share a lock."""
        with (self._leases / f"lock-{name[:2]}").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fetch(self, video_path: str, target: Path) -> int:
        folder, file = video_path.rsplit("/", 1)
        try:
            Storage(folder, self._storage_options).fetch(file, str(target), within_s=_FETCH_SECONDS)
        except FileNotFoundError:
            raise VideoNotFoundError(f"no video file at {video_path}") from None
        except (StorageUnavailableError, PermissionError) as error:
            # The store of a video may be another one than that of the output: other clips can go on.
            raise SourceUnreachableError(f"{video_path} can't be fetched: {error}") from error
        return target.stat().st_size

    def _keep(self, lease: Path, name: str) -> None:
        """Share a fetched file, if there is room for it after the least recently used files are deleted."""
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
            path.unlink(missing_ok=True)  # its readers have their own links
            total -= of
        if total + size <= self._max_bytes:
            with suppress(FileExistsError):
                os.link(lease, self._files / name)

    def _sweep(self) -> None:
        """Remove the links and partial files of dead processes."""
        for path in self._leases.iterdir():
            owner = path.name.split("-", 1)[0]
            if owner.isdigit() and not process_exists(int(owner)):
                path.unlink(missing_ok=True)
