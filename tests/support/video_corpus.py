"""Files of every kind a video collection holds, made with ffmpeg from one numbered film.

Each frame of the film shows its own number as ten black or white fields, over a background that moves: no two frames
look alike, and a frame that was decoded without those it refers to looks like none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.support.helpers import ffmpeg

NUM_FRAMES = 96
_HEIGHT, _WIDTH, _FPS = 96, 160, 24
_FIELDS, _SIDE = 10, 16

_AUDIO = ("-f", "lavfi", "-i", "sine=duration=4")
_CLOSED = ("-c:v", "libx264", "-preset", "veryfast", "-bf", "2", "-g", "24", "-x264-params", "open-gop=0:scenecut=0")
_OPEN = (
    "-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-g", "24",
    "-x264-params", "open-gop=1:scenecut=0:b-adapt=0",
)  # fmt: skip
# The numbers survive any quality; the background would differ between decoders only where they are wrong.
_FRAGMENTED = ("-movflags", "frag_keyframe+empty_moov")

# How each file is made of the film: the encoder's arguments, by the name of the file.
FILES: Mapping[str, tuple[str, ...]] = {
    "h264_closed.mp4": _CLOSED,
    "h264_closed.mkv": _CLOSED,
    "audio_first.mp4": ("-map", "1:a", "-map", "0:v", *_CLOSED),
    "h264_open.mp4": _OPEN,
    "h264_open.mkv": _OPEN,
    "h264_intra_refresh.mp4": (
        "-c:v", "libx264", "-preset", "veryfast", "-bf", "0", "-g", "24",
        "-x264-params", "intra-refresh=1:scenecut=0",
    ),
    "h264_10_bit.mp4": (*_CLOSED, "-pix_fmt", "yuv420p10le"),
    "h264_444.mp4": (*_CLOSED, "-pix_fmt", "yuv444p"),
    "h264_bt709.mp4": (
        *_CLOSED, "-vf", "scale=out_color_matrix=bt709:out_range=tv",
        "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv",
    ),
    "h264_full_range.mp4": (*_CLOSED, "-vf", "scale=out_range=pc", "-pix_fmt", "yuv420p", "-color_range", "pc"),
    "h264_anamorphic.mp4": (*_CLOSED, "-vf", "setsar=4/3"),
    "h264_interlaced.mp4": ("-c:v", "libx264", "-preset", "veryfast", "-g", "24", "-flags", "+ilme+ildct"),
    "variable_rate.mp4": (*_CLOSED, "-vf", "select='not(mod(n,7))+not(mod(n,5))+gt(n,70)'", "-fps_mode", "vfr"),
    "low_rate.mp4": (*_CLOSED, "-vf", "select='lt(n,12)',setpts=N*300/TB", "-fps_mode", "vfr"),
    "transport_stream.ts": _CLOSED,
    "open_transport_stream.ts": _OPEN,
    "program_stream.mpg": ("-c:v", "mpeg2video", "-bf", "2", "-g", "12", "-q:v", "3"),
    "fragmented.mp4": (*_CLOSED, *_FRAGMENTED),
    "fragmented_open.mp4": (*_OPEN, *_FRAGMENTED),
    "half_fragmented.mp4": (*_CLOSED, "-movflags", "frag_keyframe"),
    "odd_sizes.mp4": ("-c:v", "libx264", "-vf", "scale=157:93", "-pix_fmt", "yuv444p", "-g", "24"),
    "one_frame.mp4": (*_CLOSED, "-frames:v", "1"),
    "hevc_closed.mp4": ("-c:v", "libx265", "-preset", "veryfast", "-g", "24", "-x265-params", "open-gop=0:log-level=1"),
    "hevc_open.mp4": ("-c:v", "libx265", "-preset", "veryfast", "-g", "24", "-x265-params", "open-gop=1:log-level=1"),
    "hevc_10_bit.mkv": (
        "-c:v", "libx265", "-preset", "veryfast", "-g", "24", "-pix_fmt", "yuv420p10le",
        "-x265-params", "log-level=1",
    ),
    "vp8.webm": ("-c:v", "libvpx", "-g", "24", "-b:v", "1M", "-auto-alt-ref", "1", "-lag-in-frames", "16"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-g", "24", "-b:v", "1M", "-auto-alt-ref", "1", "-lag-in-frames", "16",
                 "-deadline", "realtime", "-cpu-used", "5"),
    "vp9_10_bit.webm": ("-c:v", "libvpx-vp9", "-g", "24", "-b:v", "1M", "-pix_fmt", "yuv420p10le",
                        "-deadline", "realtime", "-cpu-used", "5"),
    "av1.mp4": ("-c:v", "libsvtav1", "-preset", "10", "-g", "24", "-svtav1-params", "lp=1"),
    "av1.mkv": ("-c:v", "libsvtav1", "-preset", "10", "-g", "24", "-svtav1-params", "lp=1"),
    "mpeg4.mp4": ("-c:v", "mpeg4", "-bf", "2", "-g", "24", "-q:v", "3"),
    "mpeg4.avi": ("-c:v", "mpeg4", "-bf", "2", "-g", "24", "-q:v", "3"),
    "h264.avi": _CLOSED,
    "vp9.mp4": ("-c:v", "libvpx-vp9", "-g", "24", "-b:v", "1M", "-deadline", "realtime", "-cpu-used", "5"),
    "mjpeg.avi": ("-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"),
}  # fmt: skip

# Files that are made of another one, without encoding again.
REMUXED: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    # Cut in the middle of a GOP: an edit list hides the frames before.
    "edit_list.mp4": ("h264_closed.mp4", ("-ss", "1.375", "-t", "2"), ()),
    "edit_list_open.mp4": ("h264_open.mp4", ("-ss", "1.375", "-t", "2"), ()),
    "delayed.mp4": ("h264_closed.mp4", ("-itsoffset", "1.5"), ()),
    "delayed.mkv": ("h264_closed.mp4", ("-itsoffset", "1.5"), ()),
    "rotated_90.mp4": ("h264_closed.mp4", ("-display_rotation", "90"), ()),
    "rotated_180.mp4": ("h264_closed.mp4", ("-display_rotation", "180"), ()),
    "rotated_270.mkv": ("h264_closed.mp4", ("-display_rotation", "270"), ()),
    "mirrored.mp4": ("h264_closed.mp4", ("-display_hflip",), ()),
    # Of files whose table of sync samples is gone: muxers of other formats believe that every sample is one.
    "hevc_all_sync.mkv": ("hevc_no_stss.mp4", (), ()),
    "mpeg4_all_sync.mkv": ("mpeg4_no_stss.mp4", (), ()),
    # A recorder that was killed, or a pipe, writes no duration.
    "live.mkv": ("h264_closed.mkv", (), ("-f", "matroska", "-live", "1")),
}

# Files without a table of sync samples (`stss`), which means that every sample is one, and what they are made of.
WITHOUT_SYNC_TABLE: Mapping[str, str] = {
    "h264_no_stss.mp4": "h264_closed.mp4",
    "hevc_no_stss.mp4": "hevc_closed.mp4",
    "mpeg4_no_stss.mp4": "mpeg4.mp4",
    "av1_no_stss.mp4": "av1.mp4",
    "vp9_no_stss.mp4": "vp9.mp4",
}


def film(folder: Path) -> Path:
    """Write the film, without loss."""
    raw, path = folder / "film.rgb", folder / "film.mkv"
    raw.write_bytes(np.stack([_picture(number) for number in range(NUM_FRAMES)]).tobytes())
    layout = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{_WIDTH}x{_HEIGHT}", "-r", str(_FPS))
    ffmpeg(*layout, "-i", raw, "-c:v", "ffv1", "-pix_fmt", "bgr0", path)
    raw.unlink()
    return path


def make(name: str, folder: Path) -> Path:
    """Write one file of the corpus, and what it is made of."""
    path = folder / name
    if path.exists():
        return path
    if name in REMUXED:
        source, before, after = REMUXED[name]
        ffmpeg(*before, "-i", make(source, folder), "-c", "copy", *after, path)
        return path
    if name in WITHOUT_SYNC_TABLE:
        content = make(WITHOUT_SYNC_TABLE[name], folder).read_bytes()
        assert content.count(b"stss") == 1
        path.write_bytes(content.replace(b"stss", b"free"))
        return path
    source = folder / "film.mkv"
    if not source.exists():
        film(folder)
    arguments = FILES[name]
    sound = _AUDIO if name in WITH_SOUND else ()
    pixels = () if "-pix_fmt" in arguments else ("-pix_fmt", "yuv420p")
    ffmpeg("-i", source, *sound, "-threads", "1", *arguments, *pixels, path)
    return path


WITH_SOUND = frozenset({"h264_closed.mkv", "audio_first.mp4", "transport_stream.ts", "fragmented.mp4", "vp9.webm"})


def _picture(number: int) -> NDArray[np.uint8]:
    """uint8 `[H, W, 3]`."""
    rows, columns = np.mgrid[:_HEIGHT, :_WIDTH]
    planes = [columns + 3 * number, rows + 2 * number, (rows + columns) // 2 - number]
    image = np.stack([120 + 60 * np.sin(plane / 9) for plane in planes], axis=-1).astype(np.uint8)
    for field in range(_FIELDS):
        image[:_SIDE, field * _SIDE : (field + 1) * _SIDE] = 235 * (number >> field & 1)
    return image
