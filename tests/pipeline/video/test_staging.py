"""Videos of object stores: fetched once into a folder that keeps to its size, or read by ranges where they lie."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem

from flashvid.errors import ConfigurationError
from pipeline.config import SamplingConfig
from pipeline.errors import SourceUnreachableError, VideoNotFoundError
from pipeline.resources_config import StagingConfig
from pipeline.video.clip_frames import decode_clip
from pipeline.video.probing import read_probe
from pipeline.video.process import DecodeProcess
from pipeline.video.remote_file import RemoteVideo
from pipeline.video.staging import Staging, is_read_in_place, staging_folder
from tests.support import video_corpus
from tests.support.helpers import clip

MIB = 1 << 20


@pytest.fixture
def bucket() -> Iterator[str]:
    """A folder of a store in memory."""
    url = f"memory://{uuid.uuid4().hex}"
    fsspec.filesystem("memory").pipe_file(f"{url}/there", b"")
    yield url
    fsspec.filesystem("memory").rm(url, recursive=True)


def put(bucket: str, name: str, size: int = MIB) -> str:
    """A file of bytes that belong to its name."""
    content = (name.encode() * (size // len(name) + 1))[:size]
    fsspec.filesystem("memory").pipe_file(f"{bucket}/{name}", content)
    return f"{bucket}/{name}"


def staging(folder: Path, max_mib: float = 100) -> Staging:
    """A staging folder of so many MiB."""
    return Staging(StagingConfig(directory=str(folder), max_gb=max_mib / 1024), {})


def test_a_file_is_fetched_once(bucket: str, tmp_path: Path) -> None:
    """Its bytes and its suffix; afterwards nothing is held, and another process finds it."""
    url = put(bucket, "a.mp4")
    for fetched_bytes in (MIB, 0, 0):
        with staging(tmp_path).staged(url, "source-a") as video:
            assert video.fetched_bytes == fetched_bytes
            assert Path(video.path).read_bytes() == fsspec.filesystem("memory").cat_file(url)
            assert video.path.endswith(".mp4")
        assert not Path(video.path).exists()
    # Other bytes under the same path are another source.
    with staging(tmp_path).staged(put(bucket, "a.mp4", 2 * MIB), "source-b") as video:
        assert video.fetched_bytes == Path(video.path).stat().st_size == 2 * MIB


def test_local_files_stay_where_they_are(tmp_path: Path) -> None:
    """And nothing is made for them."""
    file = tmp_path / "a.mp4"
    file.write_bytes(b"video")
    with staging(tmp_path / "staging").staged(str(file), "source-a") as video:
        assert (video.path, video.fetched_bytes) == (str(file), 0)
    assert not (tmp_path / "staging").exists()


def test_the_least_recently_used_go_first_and_nobody_loses_a_file(bucket: str, tmp_path: Path) -> None:
    """Room for three: a fourth takes the place of the oldest, also if somebody reads it at the moment."""
    small = staging(tmp_path, max_mib=3.5)
    for name in "abc":
        with small.staged(put(bucket, name), name):
            pass
    with small.staged(f"{bucket}/a", "a") as held:  # used now: b is the oldest
        assert held.fetched_bytes == 0
        for name in "de":
            with small.staged(put(bucket, name), name):
                pass
        assert sum(path.stat().st_size for path in (staging_folder(str(tmp_path)) / "files").iterdir()) == 3 * MIB
        assert Path(held.path).read_bytes() == fsspec.filesystem("memory").cat_file(f"{bucket}/a")
    fetched = {}
    for name in "aedbc":
        with small.staged(f"{bucket}/{name}", name) as video:
            fetched[name] = video.fetched_bytes
    assert fetched == {"a": 0, "e": 0, "d": 0, "b": MIB, "c": MIB}


def test_a_file_larger_than_the_folder_is_read_and_not_kept(bucket: str, tmp_path: Path) -> None:
    """What is there stays."""
    small = staging(tmp_path, max_mib=1.5)
    for name, size, kept in (("a", MIB, 1), ("big", 3 * MIB, 0)):
        with small.staged(put(bucket, name, size), name) as video:
            assert Path(video.path).stat().st_size == size
        assert len(list((staging_folder(str(tmp_path)) / "files").iterdir())) == kept


class SlowStaging(Staging):
    """Takes its time to fetch."""

    def _fetch(self, video_path: str, target: Path) -> int:
        time.sleep(0.3)
        return super()._fetch(video_path, target)


def test_many_readers_fetch_once(bucket: str, tmp_path: Path) -> None:
    """All wait for the one that fetches."""
    url, begin = put(bucket, "a.mp4"), threading.Barrier(8)

    def read(_: int) -> int:
        begin.wait()
        slow = SlowStaging(StagingConfig(directory=str(tmp_path)), {})
        with slow.staged(url, "a") as video:
            assert Path(video.path).stat().st_size == MIB
            return video.fetched_bytes

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(read, range(8))) == [0] * 7 + [MIB]


def test_what_a_killed_process_left_is_removed(bucket: str, tmp_path: Path) -> None:
    """A half-fetched file is never seen, and gone with the next fetch; those of living processes stay."""
    with staging(tmp_path).staged(put(bucket, "a.mp4"), "a"):
        pass
    gone = 2**22 + 1  # above any number that Linux gives a process
    dead, alive = (
        staging_folder(str(tmp_path)) / "leases" / f"{gone}-0123.mp4",
        staging_folder(str(tmp_path)) / "leases" / f"{os.getpid()}-4567.mp4",
    )
    for path in (dead, alive):
        path.write_bytes(b"half a vid")
    with staging(tmp_path).staged(put(bucket, "b.mp4"), "b"):
        assert (dead.exists(), alive.exists()) == (False, True)


def test_a_missing_file_is_named(bucket: str, tmp_path: Path) -> None:
    """And leaves nothing behind."""
    with (
        pytest.raises(VideoNotFoundError, match=r"nowhere\.mp4"),
        staging(tmp_path).staged(f"{bucket}/nowhere.mp4", "n"),
    ):
        pass
    assert [
        path.name for path in (staging_folder(str(tmp_path)) / "leases").iterdir() if not path.name.startswith("lock-")
    ] == []


@pytest.mark.parametrize(
    ("fields", "sampling", "in_place"),
    [
        ({"start_s": 60.0, "end_s": 120.0}, {}, True),
        ({"start_s": 7190.0}, {}, True),  # to the end
        ({"end_s": 60.0}, {}, True),
        ({}, {}, False),  # the whole file
        ({"start_s": 60.0, "end_s": 1200.0}, {}, False),  # a large part of it
        ({"start_s": 60.0, "end_s": 120.0, "size_bytes": MIB}, {}, False),  # a small file
        ({"start_s": 60.0, "end_s": 120.0, "duration_s": None}, {}, False),  # nobody has looked
        ({"start_s": 60.0, "end_s": 120.0}, {"decoder": "decord"}, False),
    ],
)
def test_small_parts_of_large_files_are_read_in_place(
    fields: dict[str, Any], sampling: dict[str, Any], in_place: bool
) -> None:
    """Of a gigabyte of two hours."""
    part = clip("a", **{"size_bytes": 1024 * MIB, "duration_s": 7200.0, **fields})
    assert is_read_in_place(part, SamplingConfig(**sampling)) == in_place


@pytest.fixture(scope="module")
def process() -> Iterator[DecodeProcess]:
    """One for all tests, which it has to survive."""
    with closing(DecodeProcess(time_limit_s=60.0, memory_limit_gb=1.0)) as process:
        yield process


@pytest.mark.parametrize(
    "name", ["h264_closed.mp4", "h264_open.mkv", "transport_stream.ts", "vp9.webm", "fragmented.mp4"]
)
def test_frames_read_by_ranges_are_those_of_the_file(process: DecodeProcess, tmp_path: Path, name: str) -> None:
    """Pixel by pixel and time by time."""
    path = video_corpus.make(name, tmp_path)
    for start_s, end_s in ((0.5, 1.5), (1.25, None)):
        sampling = SamplingConfig(num_frames=5)
        there = process.decode_clip(RemoteVideo(f"file://{path}", {}), sampling, start_s, end_s)
        here = decode_clip(str(path), sampling, start_s, end_s)
        assert np.array_equal(there.frames, here.frames)
        assert np.array_equal(there.frame_timestamps, here.frame_timestamps)
    assert process.probe(RemoteVideo(f"file://{path}", {})) == read_probe(str(path))


class BreakingFileSystem(LocalFileSystem):
    """Files that can be opened, and read for a while."""

    protocol = "breaking"

    def open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        """A file whose store goes away after 20 reads."""
        file = Path(self._strip_protocol(path)).open(mode)  # noqa: SIM115 - the caller's
        return _Breaking(file, reads=20)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("breaking://")


class _Breaking:
    def __init__(self, file: Any, reads: int) -> None:
        self._file, self._reads = file, reads

    def __enter__(self) -> _Breaking:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int) -> bytes:
        """As long as it goes well."""
        self._reads -= 1
        if self._reads < 0:
            raise TimeoutError("the store is gone")
        content: bytes = self._file.read(min(size, 2000))
        return content


def test_a_store_that_goes_away_is_not_the_videos_fault(process: DecodeProcess, tmp_path: Path) -> None:
    """A transient failure, not a file that can't be decoded for good; the next file is read by the same process."""
    fsspec.register_implementation("breaking", BreakingFileSystem, clobber=True)
    path, pid = video_corpus.make("h264_closed.mp4", tmp_path), process.pid
    for read in (process.probe, lambda video: process.decode_clip(video, SamplingConfig(num_frames=5), 0.5, 2.5)):
        with pytest.raises(SourceUnreachableError, match="TimeoutError: the store is gone"):
            read(RemoteVideo(f"breaking://{path}", {}))
    with pytest.raises(VideoNotFoundError, match="no video file at file:///nowhere"):
        process.probe(RemoteVideo("file:///nowhere.mp4", {}))
    assert process.probe(RemoteVideo(f"file://{path}", {})) == read_probe(str(path))
    assert process.pid == pid


def test_the_default_folder_is_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the cache folder; without a home that can be written, in the temporary folder, under a name of its own."""
    name = f"flashvid-staging-{os.getuid()}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert staging_folder(None) == tmp_path / "cache" / name
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert staging_folder(None) == tmp_path / "home" / ".cache" / name
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert staging_folder(None) == tmp_path / name
    assert staging_folder("/scratch") == Path("/scratch") / name


def _link(folder: Path) -> None:
    elsewhere = folder.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    folder.symlink_to(elsewhere)


def _of_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def _of_another(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)


@pytest.mark.parametrize("below", ["", "files", "leases"])
@pytest.mark.parametrize("prepare", [_link, _of_all, _of_another])
def test_a_folder_that_others_may_change_is_refused(
    bucket: str, tmp_path: Path, prepare: Callable[[Path], None], below: str
) -> None:
    """Before anything is staged there: someone else could have us decode another video."""
    if prepare is _of_another and os.getuid() != 0:
        pytest.skip("only root can give a folder away")
    folder, url = staging_folder(str(tmp_path)), put(bucket, "a.mp4")
    if below:
        folder.mkdir(mode=0o700)
    prepare(folder / below)
    refused = pytest.raises(ConfigurationError, match="can't be used for staged videos: it must be a folder of user")
    with refused, staging(tmp_path).staged(url, "s"):
        pytest.fail("it was staged")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
