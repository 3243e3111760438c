"""Videos with damaged bytes, through the process that probes and decodes them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from pipeline.config import SamplingConfig
from pipeline.video.clip_frames import decode_clip
from pipeline.video.process import DecodeProcess
from tests.fuzz.kind import Kind, folder, mutated, refused
from tests.support import video_corpus

_NAMES = ("h264_closed.mp4", "h264_open.mkv", "transport_stream.ts", "mpeg4.avi")
_SAMPLING = SamplingConfig(num_frames=3)


@cache
def _files() -> Path:
    return Path(tempfile.mkdtemp(prefix="flashvid-fuzz-videos-"))


@cache
def _content(name: str) -> bytes:
    return video_corpus.make(name, _files()).read_bytes()


@cache
def _process() -> DecodeProcess:
    return DecodeProcess(time_limit_s=20.0, memory_limit_gb=1.0)


@cache
def _shape(name: str) -> tuple[int, ...]:
    return decode_clip(str(_files() / name), _SAMPLING, None, None).frames.shape


_VIDEOS = st.sampled_from(_NAMES).flatmap(lambda name: st.tuples(st.just(name), mutated(_content(name))))


def check(video: tuple[str, bytes]) -> None:
    """Frames at ascending times within the file, or one message; the process is there for the next file."""
    name, content = video
    with folder() as place:
        path = place / name
        path.write_bytes(content)
        probe = refused(lambda: _process().probe(str(path)))
        clip = refused(lambda: _process().decode_clip(str(path), _SAMPLING, None, None))
    if clip is not None:
        assert probe is not None, "decoded, but not probed"
        assert len(clip.frames) == len(clip.frame_timestamps)
        assert np.all(np.diff(clip.frame_timestamps) > 0)
        assert clip.frames.dtype == np.uint8


VIDEOS = Kind(
    _VIDEOS, check, seeds=tuple((name, content) for name in _NAMES for content in (b"", b"\0" * 100, b"ftyp" * 9))
)
