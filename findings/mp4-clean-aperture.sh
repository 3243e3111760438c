#!/usr/bin/env bash
# MP4 clean aperture: the ffmpeg command crops the picture, PyAV and decord do not.
#
# Guess:    All three decode with FFmpeg, so they return pictures of one size for one file.
# Surprise: An MP4 or QuickTime file may hold a `clap` box (clean aperture: the part of the picture to show). The ffmpeg command crops to
#           it without an option. PyAV and decord return the whole coded picture. PyAV's stream and its frames have no attribute that
#           shows the box.
# Matters:  Frames from one reader do not line up with coordinates, masks or token grids computed with another. A comparison "against
#           ffmpeg's own output" fails for such a file although nothing is broken.
# Do:       Pass `-apply_cropping 0` before `-i` to get the coded picture from the command, or read the box and crop after PyAV.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    av==18.1.0 decord==0.6.0 imageio-ffmpeg==0.8.1 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import struct
import subprocess
import sys
from importlib.metadata import version

import av
import decord
import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
print(*(f"{name} {version(name)}" for name in ("av", "decord", "imageio-ffmpeg")), sep=", ")
print("PyAV's libavformat", ".".join(map(str, av.library_versions["libavformat"])))
print(subprocess.run([FFMPEG, "-version"], capture_output=True, text=True, check=True).stdout.splitlines()[0])

subprocess.run(
    [FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=1",
     "-c:v", "libx264", "-pix_fmt", "yuv420p", "plain.mp4"],
    check=True,
)  # fmt: skip

# A clap box of 300 x 200, centred, at the end of the video's sample entry. The moov box is the last of the file, so no
# offset into the media changes; the sizes of the seven enclosing boxes grow by the size of the new one.
CLAP = struct.pack(">I4s", 40, b"clap") + struct.pack(">8I", 300, 1, 200, 1, 0, 1, 0, 1)


def add_to_sample_entry(data: bytes, box: bytes) -> bytes:
    data = bytearray(data)
    start, end = 0, len(data)
    headers = {b"moov": 8, b"trak": 8, b"mdia": 8, b"minf": 8, b"stbl": 8, b"stsd": 16, b"avc1": 86}
    for wanted, header in headers.items():
        while True:
            size, name = struct.unpack_from(">I4s", data, start)
            if name == wanted:
                break
            start += size
            assert start < end, f"no {wanted!r} box"
        struct.pack_into(">I", data, start, size + len(box))
        start, end = start + header, start + size
    data[end:end] = box
    return bytes(data)


with open("plain.mp4", "rb") as file:
    plain = file.read()
with open("clap.mp4", "wb") as file:
    file.write(add_to_sample_entry(plain, CLAP))


def by_ffmpeg(path: str, *options: str) -> np.ndarray:
    command = [FFMPEG, "-v", "error", *options, "-i", path, "-frames:v", "1", "-f", "image2pipe", "-c:v", "ppm", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    _, size, _, pixels = data.split(b"\n", 3)
    width, height = map(int, size.split())
    return np.frombuffer(pixels, np.uint8).reshape(height, width, 3)


def by_pyav(path: str) -> np.ndarray:
    with av.open(path) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def show(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


seen = {}
for path in ("plain.mp4", "clap.mp4"):
    by_decord = decord.VideoReader(path)[0].asnumpy()
    seen[path] = [by_ffmpeg(path), by_ffmpeg(path, "-apply_cropping", "0"), by_pyav(path), by_decord]
    names = ("ffmpeg", "ffmpeg -apply_cropping 0", "PyAV", "decord")
    print(f"{path}:", ", ".join(f"{name} {show(frame)}" for name, frame in zip(names, seen[path], strict=True)))

cropped, coded, pyav, frame_decord = seen["clap.mp4"]
expected = {
    "without the box all sizes are 320 x 240": all(frame.shape == (240, 320, 3) for frame in seen["plain.mp4"]),
    "with it the ffmpeg command returns 300 x 200": cropped.shape == (200, 300, 3),
    "with -apply_cropping 0 it returns 320 x 240": coded.shape == (240, 320, 3),
    "PyAV returns 320 x 240": pyav.shape == (240, 320, 3),
    "decord returns 320 x 240": frame_decord.shape == (240, 320, 3),
    "the small picture is the middle of PyAV's": np.array_equal(pyav[20:220, 10:310], cropped),
}
for text, holds in expected.items():
    print("as described:" if holds else "CHANGED:", text)
sys.exit(0 if all(expected.values()) else 1)
PYTHON
