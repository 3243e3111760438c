"""Every kind of file through the decoders, frame by frame against the ffmpeg program's own output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.container import InputContainer
from numpy.typing import NDArray

from pipeline.clip import DecodedClip
from pipeline.config import SamplingConfig
from pipeline.errors import UnreadableVideoError
from pipeline.video.clip_frames import decode_clip
from pipeline.video.containers import opened
from pipeline.video.decord_reader import DecordReader
from pipeline.video.demux import read_index
from pipeline.video.frame_blocks import frame_blocks
from pipeline.video.probing import read_probe
from pipeline.video.pyav_reader import PyavReader
from tests.support import video_corpus
from tests.support.helpers import FfmpegFrames, ffmpeg, ffmpeg_frames

# The files that decord reads exactly; the rest is PyAV's.
DECORD_READS = {
    "h264_closed.mp4", "h264_closed.mkv", "audio_first.mp4", "h264_bt709.mp4", "h264_full_range.mp4",
    "h264_anamorphic.mp4", "h264_interlaced.mp4", "variable_rate.mp4", "low_rate.mp4", "one_frame.mp4",
    "hevc_closed.mp4", "vp8.webm", "vp9.webm", "vp9.mp4",
}  # fmt: skip
QUICK = (
    "h264_closed.mp4", "h264_open.mkv", "transport_stream.ts", "fragmented.mp4", "edit_list.mp4", "rotated_90.mp4",
    "h264_no_stss.mp4", "mpeg4_no_stss.mp4",
)  # fmt: skip
MADE = (*video_corpus.FILES, *video_corpus.REMUXED, *video_corpus.WITHOUT_SYNC_TABLE)
NAMES = tuple(name for name in MADE if name != "h264.avi")
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NAMES]
# Times of a broadcast count from the file's first packet, of whichever stream.
RUNNING_CLOCK = (".ts", ".mpg")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the corpus; files are made when they are asked for."""
    return tmp_path_factory.mktemp("corpus")


def true_times(path: Path, truth: FfmpegFrames) -> NDArray[np.float64]:
    """When each frame is shown, in seconds of our clock."""
    times = np.array([float(time) for time in truth.times])
    if path.suffix in RUNNING_CLOCK:
        with av.open(str(path)) as container:
            begins = [float(stream.start_time * stream.time_base) for stream in container.streams]
            times += begins[container.streams.video[0].index] - min(begins) - times[0]
    return times


def wrong_frames(clip: DecodedClip, times: NDArray[np.float64], truth: FfmpegFrames) -> list[str]:
    """Frames that are not ffmpeg's frame at their time, in words."""
    wrong = []
    for frame, time in zip(clip.frames, clip.frame_timestamps, strict=True):
        assert frame.shape == truth.pixels.shape[1:]
        at_time = int(np.abs(times - time).argmin())
        if abs(times[at_time] - time) > 1e-3 or truth.nearest(frame) != at_time:
            wrong.append(f"at {time:.3f} s: the frame of {times[truth.nearest(frame)]:.3f} s")
        elif np.abs(truth.pixels[at_time].astype(np.int16) - frame).mean() > 2:
            wrong.append(f"at {time:.3f} s: other colours")
    return wrong


@pytest.mark.parametrize("name", CASES)
def test_every_sampled_frame_is_the_one_at_its_time(corpus: Path, name: str) -> None:
    """Over the whole file with both settings of the decoder, and in spans, which are read from their own place."""
    path = video_corpus.make(name, corpus)
    truth = ffmpeg_frames(path)
    times = true_times(path, truth)
    for sampling in (SamplingConfig(num_frames=24), SamplingConfig(num_frames=24, decoder="pyav")):
        clip = decode_clip(str(path), sampling, None, None)
        assert wrong_frames(clip, times, truth) == []
        wanted = np.linspace(times[0], times[-1], 24)
        shown = np.unique(np.searchsorted(times, wanted + 1e-3, side="right") - 1)
        np.testing.assert_allclose(clip.frame_timestamps, times[shown], atol=1e-3)

    random = np.random.default_rng(6)
    last = float(times[-1])
    for start, end in np.sort(random.uniform(times[0], last + 0.5, (6, 2)), axis=1).round(4):
        inside = np.flatnonzero((times >= start - 1e-3) & (times < end - 1e-3))
        if not len(inside):
            inside = np.flatnonzero(times <= start)[-1:]  # on screen when the span begins
            if start >= last:
                continue
        clip = decode_clip(str(path), SamplingConfig(num_frames=5), float(start), float(end))
        assert wrong_frames(clip, times, truth) == []
        assert clip.frame_timestamps[[0, -1]] == pytest.approx(times[inside[[0, -1]]], abs=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_decord_is_taken_only_where_it_is_exact(corpus: Path, name: str) -> None:
    """The probe says so; a job that insists on decord is told why not."""
    path = video_corpus.make(name, corpus)
    probe = read_probe(str(path))
    assert probe.decoder == ("decord" if name in DECORD_READS else "pyav")
    assert probe.header.num_frames == len(ffmpeg_frames(path).times)
    with path.open("rb") as file:  # how remote files are probed
        assert read_probe(file) == probe
    if probe.decoder == "pyav":
        with pytest.raises(UnreadableVideoError, match=r"decord may return wrong frames of this file \("):
            decode_clip(str(path), SamplingConfig(num_frames=1, decoder="decord"), None, None)


def test_the_check_finds_decords_wrong_frames(corpus: Path) -> None:
    """What the choice of a decoder saves a run from: without it, some pictures of an open GOP are others."""
    path = video_corpus.make("h264_open.mkv", corpus)
    truth = ffmpeg_frames(path)
    times, indices = true_times(path, truth), np.arange(1, video_corpus.NUM_FRAMES, 4)
    clip = DecodedClip(DecordReader(str(path)).read(indices), times[indices])
    assert 0 < len(wrong_frames(clip, times, truth)) < len(indices)


def test_a_container_without_presentation_times_is_refused(corpus: Path) -> None:
    """AVI knows the order of packets only, and h264 shows pictures in another."""
    path = video_corpus.make("h264.avi", corpus)
    with pytest.raises(UnreadableVideoError, match="does not say when each frame is shown; convert the file first"):
        read_probe(str(path))


def test_a_span_is_read_from_its_own_place(corpus: Path) -> None:
    """From the keyframe before its start to its end: a window of a long file does not cost the whole file."""
    path = video_corpus.make("h264_closed.mp4", corpus)
    with opened(str(path)) as container:
        index = read_index(container, 2.5, 2.75)
    assert index.times[0] == 2.0  # a keyframe each second
    assert 2.75 <= index.times[-1] < 3.0


class CountingContainer:
    """An open file that counts the pictures which come out of its decoder."""

    def __init__(self, container: InputContainer) -> None:
        self._container = container
        self.pictures = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def decode(self, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        for frame in self._container.decode(stream):
            self.pictures += 1
            yield frame


# Not those mp4 whose pictures are late or cut off: there the demuxer begins a keyframe too early, however it is asked.
ENTERED = [name for name in NAMES if name not in ("edit_list.mp4", "variable_rate.mp4")]


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in ENTERED])
def test_a_frame_costs_what_stands_between_it_and_its_keyframe(corpus: Path, name: str) -> None:
    """And the few pictures in front of an open keyframe; never another second, which the keyframe before would cost."""
    with opened(str(video_corpus.make(name, corpus))) as container:
        index = read_index(container)
        for frame in range(0, len(index.ticks), 5):
            counting = CountingContainer(container)
            PyavReader(counting, index).read(np.array([frame]))  # type: ignore[arg-type]
            places = np.searchsorted(index.ticks, index.keyframes)
            before = int(places[places <= frame].max(initial=0))
            assert counting.pictures <= frame - before + 1 + 4, (frame, before)


@pytest.mark.parametrize(("size", "blocks"), [("320x240", [16, 4]), ("7680x4320", [1] * 3)])
def test_large_frames_travel_alone(tmp_path: Path, size: str, blocks: list[int]) -> None:
    """At most 16 frames or 128 MiB of them at a time: 8K frames fit into the memory limit as small ones do."""
    path, num_frames = tmp_path / "a.mp4", sum(blocks)
    pattern = f"color=s={size}:r=10:d={num_frames / 10}"
    ffmpeg("-f", "lavfi", "-i", pattern, "-c:v", "libx264", "-preset", "ultrafast", path)
    found = frame_blocks(str(path), SamplingConfig(num_frames=num_frames), None, None)
    assert [len(block.frames) for block in found] == blocks


def test_a_reader_that_fails_is_not_a_file_that_fails(tmp_path: Path) -> None:
    """Decord can't read pictures of this width; with `auto`, PyAV does. A job that insists on decord is told."""
    path = tmp_path / "narrow.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=72x48:r=24:d=1", "-c:v", "libx264", "-pix_fmt", "yuv420p", path)
    right = decode_clip(str(path), SamplingConfig(num_frames=6, decoder="pyav"), None, None)
    np.testing.assert_array_equal(decode_clip(str(path), SamplingConfig(num_frames=6), None, None).frames, right.frames)
    with pytest.raises(UnreadableVideoError, match="decord: Check failed"):
        decode_clip(str(path), SamplingConfig(num_frames=6, decoder="decord"), None, None)


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    """The message says what the file is."""
    path = tmp_path / "song.mp4"
    picture = ("-f", "lavfi", "-i", "color=red:s=64x64:d=1", "-frames:v", "1")
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", *picture, "-map", "0", "-map", "1", "-c:v", "png",
           "-disposition:v", "attached_pic", path)  # fmt: skip
    with pytest.raises(UnreadableVideoError, match="it is sound with a cover picture, not a video"):
        read_probe(str(path))


def test_chunks_without_bytes_are_pictures_that_stay_on_screen() -> None:
    """An AVI of 118 chunks, two in three of them empty: complete, and each picture at its own time."""
    path = Path(__file__).parents[2] / "data" / "videos" / "null_frames.avi"
    assert read_probe(str(path)).header.num_frames == len(ffmpeg_frames(path).times) == 40
    clip = decode_clip(str(path), SamplingConfig(num_frames=40), None, None)
    # Its pictures carry their number in fields along the top, at 24 a second.
    fields = clip.frames[:, 4:12].reshape(40, 8, 10, 16, 3)[:, :, :, 4:12].mean(axis=(1, 3, 4)) > 128
    assert (fields @ 2 ** np.arange(10)).tolist() == [round(24 * time) for time in clip.frame_timestamps]


def test_an_avi_that_was_cut_is_still_refused(corpus: Path, tmp_path: Path) -> None:
    """Its clock ends early, too."""
    content = video_corpus.make("mpeg4.avi", corpus).read_bytes()
    (tmp_path / "cut.avi").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableVideoError, match="cut short"):
        read_probe(str(tmp_path / "cut.avi"))


@pytest.mark.parametrize("name", ["transport_stream.ts", "program_stream.mpg"])
def test_a_clock_that_starts_again_is_refused_with_its_repair(corpus: Path, tmp_path: Path, name: str) -> None:
    """Two recordings glued with cat: half of the pictures would be left out, since two have each time."""
    path, repaired = tmp_path / name, tmp_path / "repaired.mp4"
    path.write_bytes(2 * video_corpus.make(name, corpus).read_bytes())
    with pytest.raises(UnreadableVideoError, match=r"its clock starts again after [34]\.\d s.*: ffmpeg -i IN OUT\.mp4"):
        read_probe(str(path))
    ffmpeg("-i", path, "-preset", "ultrafast", repaired)
    assert read_probe(str(repaired)).header.num_frames == 2 * video_corpus.NUM_FRAMES


@pytest.mark.parametrize("name", ["still.mp4", "still.webm", "still.ts", "still.flv", "still.mkv"])
def test_a_span_on_a_still_picture_shows_it(tmp_path: Path, name: str) -> None:
    """A screen share in which nothing changes for two minutes, whether or not the container says how long it stays."""
    codec = ("libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8") if name.endswith("webm") else ("libx264",)
    moving = "testsrc2=s=160x96:r=24:d=4,setpts='PTS+gte(N,48)*120/TB'"
    ffmpeg("-f", "lavfi", "-i", moving, "-fps_mode", "vfr", "-c:v", *codec, "-pix_fmt", "yuv420p", tmp_path / name)
    path = str(tmp_path / name)
    still = decode_clip(path, SamplingConfig(num_frames=4), 60.0, 90.0)
    truth = ffmpeg_frames(tmp_path / name)
    assert [truth.nearest(frame) for frame in still.frames] == [47]
    assert still.frame_timestamps.tolist() == [pytest.approx(47 / 24, abs=0.1)]  # FLV delays by its B-frames
    with pytest.raises(UnreadableVideoError, match=r"no frame between 500|no frames at 500\.0 s or later"):
        decode_clip(path, SamplingConfig(num_frames=1), 500.0, 510.0)
