"""What the bytes of a video are: another identity exactly when they were replaced."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from pipeline.errors import InputTableError, VideoNotFoundError
from pipeline.inputs.sources import stat_sources
from pipeline.inputs.videos import Source, Video
from pipeline.plan.probe import probe_file
from tests.support.helpers import clip


def stat(*paths: str | Path | None, column: str | None = None, **columns: object) -> list[Source]:
    """The sources of videos at these paths."""
    videos = [Video(f"v{n}", None if path is None else str(path), columns=columns) for n, path in enumerate(paths)]
    return stat_sources(videos, source_id_column=column, storage_options={})


def test_a_replaced_file_is_another_source(tmp_path: Path) -> None:
    """By its size or its time of change; touching nothing changes nothing."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"12345")
    os.utime(path, (1000, 1000))
    (first,) = stat(path)
    assert (first, first.size_bytes) == (stat(path)[0], 5)
    path.write_bytes(b"123456")
    os.utime(path, (1000, 1000))
    longer = stat(path)[0]
    path.write_bytes(b"54321")
    os.utime(path, (2000, 2000))
    later = stat(path)[0]
    assert len({source.source_id for source in (first, longer, later)}) == 3


def test_two_files_are_two_sources_in_the_order_of_the_table(tmp_path: Path) -> None:
    """Whatever their content; on any filesystem."""
    for name in "ab":
        (tmp_path / name).write_bytes(b"same")
        os.utime(tmp_path / name, (1000, 1000))
    fsspec.filesystem("memory").pipe_file("/test_sources/c.mp4", b"123")
    paths = [tmp_path / "a", tmp_path / "b", "memory://test_sources/c.mp4"]
    sources = stat(*paths)
    assert len({source.source_id for source in sources}) == 3
    assert [source.size_bytes for source in sources] == [4, 4, 3]
    assert stat(*paths[::-1])[::-1][:2] == sources[:2]


def test_a_missing_file_stops_no_other(tmp_path: Path) -> None:
    """Also one below a file, which the system reports in its own way; the probe then names it."""
    (tmp_path / "a.mp4").write_bytes(b"1")
    sources = stat(
        tmp_path / "nowhere.mp4", tmp_path / "a.mp4" / "b.mp4", tmp_path / ("x" * 300), None, tmp_path / "a.mp4"
    )
    assert [source.exists for source in sources] == [False, False, False, False, True]
    for path in (tmp_path / "nowhere.mp4", tmp_path / "a.mp4" / "b.mp4"):
        with pytest.raises(VideoNotFoundError, match=f"no video file at {path}"):
            probe_file(clip("a", video_path=str(path)), {}, lambda _: pytest.fail("it was read"))


def test_a_file_that_appears_is_another_source(tmp_path: Path) -> None:
    """So that its earlier, permanent failure does not count."""
    path = tmp_path / "a.mp4"
    (missing,) = stat(path)
    path.write_bytes(b"1")
    assert stat(path)[0].source_id != missing.source_id


def test_a_column_may_say_what_the_bytes_are(tmp_path: Path) -> None:
    """A checksum, say: then a copy elsewhere is the same source, and a changed time says nothing."""
    for name in "ab":
        (tmp_path / name).write_bytes(name.encode())
    one, other = stat(tmp_path / "a", tmp_path / "b", column="checksum", checksum="abc")
    assert one == other
    assert stat(tmp_path / "a", column="checksum", checksum="abd")[0].source_id != one.source_id
    assert not stat(tmp_path / "nowhere", column="checksum", checksum="abc")[0].exists


def test_an_empty_source_column_names_its_row(tmp_path: Path) -> None:
    """It would make all such rows the same video."""
    with pytest.raises(InputTableError, match="video_id 'v0': has no 'checksum'"):
        stat(tmp_path / "a", column="checksum", checksum="")
