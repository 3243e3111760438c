#!/usr/bin/env bash
# PyAV: one accented letter in the title of a video makes `av.open` fail, although FFmpeg and other readers play it.
#
# Guess:    Opening a video reads streams; metadata is text for whoever asks for it. A title in Latin-1, which AVI has no rule against,
#           shows a wrong letter at worst.
# Surprise: `av.open(path)` raises UnicodeDecodeError, a ValueError and not one of PyAV's FFmpegErrors, before anything is decoded.
#           It says neither which file nor which tag. The argument `metadata_errors="replace"` helps. decord and the ffmpeg command
#           read the same file.
# Matters:  Files of cameras and old encoders. Code that catches `av.FFmpegError` for damaged files stops the whole job instead, and
#           videos whose pictures are fine are lost.
# Do:       Always open with `av.open(path, metadata_errors="replace")` (or "surrogateescape", to keep the bytes).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    av==18.1.0 decord==0.6.0 imageio-ffmpeg==0.8.1 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import av
import decord
import imageio_ffmpeg

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
print(*(f"{name} {version(name)}" for name in ("av", "decord", "imageio-ffmpeg")), sep=", ")

# "Café 1" in UTF-8 has the length of "Café 12" in Latin-1, so that every size in the file stays right.
subprocess.run(
    [FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc=d=1:s=64x64:r=10", "-metadata", "title=Café 1", "utf8.avi"],
    check=True,
)  # fmt: skip
content = Path("utf8.avi").read_bytes()
assert content.count("Café 1".encode()) == 1
Path("latin1.avi").write_bytes(content.replace("Café 1".encode(), "Café 12".encode("latin-1")))


def opened(name: str, **options: str) -> str:
    try:
        with av.open(name, **options) as container:
            return f"{sum(1 for _ in container.decode(video=0))} frames"
    except Exception as error:
        return f"{type(error).__name__}{', an FFmpegError' if isinstance(error, av.FFmpegError) else ''}"


played = subprocess.run([FFMPEG, "-v", "error", "-i", "latin1.avi", "-f", "null", "-"], check=False).returncode
cases = [
    ("PyAV, title in UTF-8", opened("utf8.avi"), "10 frames"),
    ("PyAV, title in Latin-1", opened("latin1.avi"), "UnicodeDecodeError"),
    ("PyAV, metadata_errors='replace'", opened("latin1.avi", metadata_errors="replace"), "10 frames"),
    ("decord, title in Latin-1", f"{len(decord.VideoReader('latin1.avi'))} frames", "10 frames"),
    ("ffmpeg command, title in Latin-1", f"exit code {played}", "exit code 0"),
]
for name, found, expected in cases:
    print(f"{'as described' if found == expected else 'CHANGED'}: {name}: {found}")
sys.exit(0 if all(found == expected for _, found, expected in cases) else 1)
PYTHON
