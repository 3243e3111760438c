"""What a file says about itself besides its pictures: titles in any encoding, and things that PyAV does not know."""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from pipeline.config import SamplingConfig
from pipeline.errors import UnreadableVideoError
from pipeline.video.clip_frames import decode_clip
from pipeline.video.containers import opened
from pipeline.video.probing import read_probe

# A title, an author and the name of a track in Latin-1, Windows' Cyrillic and plain bytes.
_TITLES = (
    b"-metadata",
    b"title=Caf\xe9",
    b"-metadata",
    b"artist=\xcf\xf0\xe8",
    b"-metadata:s:v:0",
    b"title=\xff\xfe\xe9",
)


def make(path: Path, *options: bytes) -> Path:
    """One second of a test picture."""
    codec = [b"-c:v", b"libvpx"] if path.suffix == ".webm" else []
    command = [imageio_ffmpeg.get_ffmpeg_exe().encode(), b"-v", b"error", b"-f", b"lavfi", b"-i"]
    source = b"testsrc=duration=1:size=64x64:rate=25"
    subprocess.run([*command, source, b"-bitexact", *options, *codec, bytes(path)], check=True)
    return path


@pytest.mark.parametrize("suffix", ["mp4", "mov", "avi", "mkv", "webm", "flv", "ts"])
def test_a_title_that_is_not_utf_8_does_not_matter(tmp_path: Path, suffix: str) -> None:
    """The same pictures as without one, whole and as a span."""
    plain, titled = make(tmp_path / f"plain.{suffix}"), make(tmp_path / f"titled.{suffix}", *_TITLES)
    assert read_probe(str(titled)) == read_probe(str(plain))
    for span in ((None, None), (0.3, 0.7)):
        one, other = (decode_clip(str(path), SamplingConfig(num_frames=5), *span) for path in (plain, titled))
        assert np.array_equal(one.frames, other.frames)
        assert np.array_equal(one.frame_timestamps, other.frame_timestamps)


@pytest.mark.parametrize(
    "error", [UnicodeDecodeError("utf-8", b"a", 0, 1, "bad"), AttributeError("no codec"), KeyError("a")]
)
def test_what_pyav_does_not_know_is_a_fault_of_the_file(tmp_path: Path, error: Exception) -> None:
    """Permanent, with PyAV's own words and traceback."""
    path = make(tmp_path / "a.mp4")
    said = f"PyAV can't handle this file .{type(error).__name__}"
    with pytest.raises(UnreadableVideoError, match=said) as raised, opened(str(path)):
        raise error
    assert raised.value.__cause__ is error


def test_errors_of_ours_pass(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4")
    with pytest.raises(UnreadableVideoError, match=r"^ours$"), opened(str(path)):
        raise UnreadableVideoError("ours")
