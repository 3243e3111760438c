#!/usr/bin/env bash
# AVI with B-frames: PyAV decodes the pictures in the right order, with each other's times.
#
# Guess:    `container.decode()` yields frames in display order, so `frame.time` grows, and it is the time of that picture. A wrong
#           container would at worst shift all times by a constant.
# Surprise: AVI stores no presentation times. For H.264 with B-frames the pictures come out in the right order, but their times are those
#           of the packets in decoding order: 1, 4, 3, 5, 2, ... (in frames). All times are distinct and inside the file, none is None.
#           The same stream in MP4 is right. The ffmpeg command hides the problem: it shows growing times for this file.
# Matters:  Code that sorts frames by `frame.time`, or takes the frame nearest to a time, returns another picture than the one shown then.
# Do:       Where times go backward while frames are read in sequence, number the frames and divide by the rate: AVI has a constant rate.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    av==18.1.0 imageio-ffmpeg==0.8.1 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import re
import subprocess
import sys
from importlib.metadata import version

import av
import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
print(*(f"{name} {version(name)}" for name in ("av", "imageio-ffmpeg")), sep=", ")

# 50 grey pictures at 25 per second; the shade 20 + 4 * n tells the number n of a picture after decoding.
source = b"".join(np.full((120, 160), 20 + 4 * number, np.uint8).tobytes() for number in range(50))
for name in ("frames.avi", "frames.mp4"):
    subprocess.run(
        [FFMPEG, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "gray", "-s", "160x120", "-r", "25", "-i", "-",
         "-c:v", "libx264", "-bf", "3", "-x264-params", "threads=1", "-pix_fmt", "yuv420p", name],
        input=source, check=True,
    )  # fmt: skip


def read(name: str) -> tuple[list[int], list[int]]:
    """The numbers of the pictures in the order of decode(), and their times in frames."""
    with av.open(name) as container:
        frames = list(container.decode(video=0))
    numbers = [round((float(frame.to_ndarray(format="gray").mean()) - 20) / 4) for frame in frames]
    return numbers, [round(frame.time * 25) for frame in frames]


def times_by_ffmpeg(name: str) -> list[int]:
    command = [FFMPEG, "-hide_banner", "-i", name, "-vf", "showinfo", "-fps_mode", "passthrough", "-f", "null", "-"]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    return [round(float(time) * 25) for time in re.findall(r"pts_time:([\d.]+)", log)]


numbers, times = read("frames.avi")
print("AVI, PyAV: pictures", numbers[:10], "times", times[:10])
by_time = [number for _, number in sorted(zip(times, numbers, strict=True))]
print("AVI, PyAV: pictures sorted by time", by_time[:10])
print("AVI, ffmpeg command: times", times_by_ffmpeg("frames.avi")[:10])
mp4_numbers, mp4_times = read("frames.mp4")
print("MP4, PyAV: pictures", mp4_numbers[:10], "times", mp4_times[:10])

expected = {
    "decode() yields the pictures of the AVI in order": numbers == list(range(50)),
    "their times are not in order": times != sorted(times),
    "50 distinct times": len(set(times)) == 50,
    "sorting by time puts pictures out of order": by_time != list(range(50)),
    "the ffmpeg command shows growing times": times_by_ffmpeg("frames.avi") == sorted(times_by_ffmpeg("frames.avi")),
    "the MP4 has pictures and times in order": mp4_numbers == mp4_times == list(range(50)),
}
for text, holds in expected.items():
    print("as described:" if holds else "CHANGED:", text)
sys.exit(0 if all(expected.values()) else 1)
PYTHON
