#!/usr/bin/env bash
# H.264 with periodic intra refresh: some frames cannot be reached from the "keyframe" before them.
#
# Guess:    Seek backward to a frame's time. The demuxer lands on a packet that is marked as a keyframe, and decoding from there reaches
#           the wanted frame.
# Surprise: With intra refresh (x264's `intra-refresh=1`; common in low-latency streams and cameras) only the first picture is an IDR
#           picture. FFmpeg marks each recovery point as a keyframe, in the packet flags and in the `stss` box of an MP4. From a recovery
#           point the decoder drops every picture until the refresh is complete, without an error. Frame 55 is wanted, packet 50 is the
#           keyframe, the first frame that comes out is 68. `ffmpeg -ss` returns frame 68 as well. decord counts the dropped frames
#           as if they had been returned: index 55 gives frame 73.
# Matters:  A sampler that seeks misses 18 frames after every recovery point (54 of the 200 frames of this file). Each picture that it
#           returns instead is intact, so nothing looks wrong.
# Do:       Compare the time of the first frame after a seek with the wanted time. If it is later, seek one keyframe further back. On
#           such a file keyframe packets outnumber the frames whose `key_frame` is true.
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

import av
import decord
import imageio_ffmpeg
import numpy as np

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
print(*(f"{name} {version(name)}" for name in ("av", "decord", "imageio-ffmpeg")), sep=", ")

# 200 frames at 25 per second without B-frames, a refresh every 50 frames.
subprocess.run(
    [FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", "testsrc2=s=320x240:r=25:d=8", "-c:v", "libx264", "-bf", "0",
     "-x264-params", "intra-refresh=1:keyint=50:threads=1", "-pix_fmt", "yuv420p", "refresh.mp4"],
    check=True,
)  # fmt: skip

with av.open("refresh.mp4") as container:
    key_packets = [number for number, packet in enumerate(container.demux(video=0)) if packet.is_keyframe]
with av.open("refresh.mp4") as container:
    decoded = list(container.decode(video=0))
key_frames = [number for number, frame in enumerate(decoded) if frame.key_frame]
pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in decoded])
print(f"{len(decoded)} frames decoded in sequence; keyframe packets {key_packets}; frames with key_frame {key_frames}")


def number_of(picture: np.ndarray) -> int:
    """The frame that equals a picture in every byte, or -1."""
    equal = np.flatnonzero((pictures == picture).all(axis=(1, 2, 3)))
    return int(equal[0]) if len(equal) else -1


def by_pyav(wanted: int) -> int:
    with av.open("refresh.mp4") as container:
        stream = container.streams.video[0]
        container.seek(decoded[wanted].pts, stream=stream)
        return number_of(next(container.decode(stream)).to_ndarray(format="rgb24"))


def by_ffmpeg(wanted: int) -> int:
    command = [FFMPEG, "-v", "error", "-ss", str(wanted / 25), "-i", "refresh.mp4", "-frames:v", "1"]
    data = subprocess.run([*command, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], capture_output=True, check=True)
    return number_of(np.frombuffer(data.stdout, np.uint8).reshape(240, 320, 3))


def by_decord(wanted: int) -> int:
    return number_of(decord.VideoReader("refresh.mp4")[wanted].asnumpy())


print("wanted  PyAV's first frame  ffmpeg -ss  decord")
rows = [(wanted, by_pyav(wanted), by_ffmpeg(wanted), by_decord(wanted)) for wanted in (10, 55, 60, 110, 160)]
for row in rows:
    print("{:6d}  {:18d}  {:10d}  {:6d}".format(*row))

missed = sum(by_pyav(wanted) > wanted for wanted in range(len(decoded)))
print(f"PyAV lands after the wanted frame for {missed} of {len(decoded)} frames")

first, late = rows[0], rows[1:]
expected = {
    "four packets are marked as keyframes": key_packets == [0, 50, 100, 150],
    "one frame is": key_frames == [0],
    "before the first recovery point every reader can reach the frame": first[1] == 0 and first[2] == first[3] == 10,
    "PyAV's first frame after a seek is later than the wanted one": all(pyav > wanted for wanted, pyav, _, _ in late),
    "ffmpeg -ss returns that later frame": all(ffmpeg == pyav for _, pyav, ffmpeg, _ in late),
    "that is so for 54 of 200 frames": (missed, len(decoded)) == (54, 200),
    "decord returns a frame that is later still": all(found > pyav for _, pyav, _, found in late),
}
for text, holds in expected.items():
    print("as described:" if holds else "CHANGED:", text)
sys.exit(0 if all(expected.values()) else 1)
PYTHON
