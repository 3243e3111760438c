"""Windows of long videos: their spans, and the run that answers each of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipeline.clip import Clip, Failure
from pipeline.config import JobConfig, SamplingConfig
from pipeline.errors import InputRowError, WorkerDiedError
from pipeline.inputs import Video
from pipeline.inputs.videos import Source
from pipeline.plan import planner as planner_module
from pipeline.plan.plan import row_clip
from pipeline.plan.probe import probe_file
from pipeline.plan.windows import cut
from pipeline.run.run import run
from pipeline.video.probing import Probe, read_probe
from pipeline.video.process import DecodeProcess
from tests.support.helpers import ffmpeg
from tests.support.helpers import job as plain_job
from tests.support.runs import copy_videos, job, table

Span = tuple[float | None, float | None]


def spans(
    row: Span, duration_s: float | None, window_s: float, stride_s: float | None = None, problem: str | None = None
) -> list[Span]:
    """The spans of the windows of one row."""
    video = Video("a", "/a.mp4", *row, columns={"place": "here"}, problem=problem)
    used = ("place", "start_s", "end_s")
    whole = row_clip(video, Source("s", 1), used, duration_s)
    windows = cut([whole], window_s=window_s, stride_s=stride_s or window_s, max_windows=10_000)
    for window in windows:
        # Its identity and its columns are those of a row with that span.
        row_of_window = replace(video, start_s=window.start_s, end_s=window.end_s)
        assert window == row_clip(row_of_window, Source("s", 1), used, duration_s)
        assert (window.video_id, window.columns["place"]) == ("a", "here")
    return [(window.start_s, window.end_s) for window in windows]


def test_windows_cover_a_row_to_its_end() -> None:
    """The first begins and the last ends where the row does."""
    assert spans((None, None), 65.0, 30.0) == [(None, 30.0), (30.0, 60.0), (60.0, None)]
    assert spans((None, None), 60.0, 30.0) == [(None, 30.0), (30.0, None)]
    assert spans((10.0, 55.0), 65.0, 20.0) == [(10.0, 30.0), (30.0, 50.0), (50.0, 55.0)]
    assert spans((10.0, 99.0), 65.0, 30.0) == [(10.0, 40.0), (40.0, 99.0)]


def test_windows_may_overlap_or_leave_gaps() -> None:
    """With overlap, the last one is the first that reaches the end."""
    assert spans((None, None), 40.0, 20.0, 10.0) == [(None, 20.0), (10.0, 30.0), (20.0, None)]
    assert spans((None, None), 40.0, 5.0, 20.0) == [(None, 5.0), (20.0, 25.0)]
    assert spans((None, None), 43.0, 5.0, 20.0) == [(None, 5.0), (20.0, 25.0), (40.0, None)]


@pytest.mark.parametrize(
    ("row", "duration_s", "problem"),
    [
        ((None, None), 30.0, None),  # no longer than a window
        ((40.0, None), 65.0, None),
        ((90.0, None), 65.0, None),  # fails as it does without windows
        ((None, None), None, None),  # could not be probed
        ((None, 60.0), 65.0, "the row has no video_path"),
    ],
)
def test_a_row_that_is_one_clip_stays_as_it_is(row: Span, duration_s: float | None, problem: str | None) -> None:
    """And so keeps its key and what is committed for it."""
    assert spans(row, duration_s, 30.0, problem=problem) == [row]


def test_spans_hold_no_trace_of_rounding() -> None:
    """Ten times a tenth is one: keys hang on it."""
    found = spans((None, None), 1.25, 0.1)
    assert found[3:5] == [(0.3, 0.4), (0.4, 0.5)]
    assert found[-1] == (1.2, None)


def test_a_stride_needs_windows() -> None:
    """It would do nothing."""
    with pytest.raises(ValueError, match="stride_s needs window_s"):
        plain_job(stride_s=3.0)
    assert isinstance(plain_job(window_s=3.0, stride_s=1.5), JobConfig)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_every_window_is_answered_and_only_once(sample_videos: Path, tmp_path: Path) -> None:
    """Per clip, with its span in the table; a second run has nothing to do, whole videos are another matter."""
    copy_videos(sample_videos, tmp_path, ["moving_red_disc.mp4", "three_boxes.mp4"])  # 6 s and 5 s
    (tmp_path / "videos" / "text.mp4").write_text("no video")
    spanned = {"question": "What happens from {start_s} to {end_s}?", "video_id": "three_boxes.mp4"}
    windows = job(
        tmp_path,
        questions=[{"question_id": "what", "question": "What happens?"}, {"question_id": "span", **spanned}],
        sampling={"fps": 4.0, "max_frames": 6},
        window_s=2.0,
    )
    notices: list[str] = []
    summary = run(windows, on_notice=notices.append)
    # 3 windows each; the one that can't be read; the question that names its span lacks a start or an end twice.
    assert (summary.clips_total, summary.clips_decoded, summary.answers_new, summary.failures_new) == (7, 6, 7, 3)
    answers = [row for row in table(tmp_path / "output", "answers") if row["question_id"] == "what"]
    assert sorted((row["video_id"], row["start_s"] or 0.0, row["end_s"]) for row in answers) == [
        (name, start, end)
        for name in ("moving_red_disc.mp4", "three_boxes.mp4")
        for start, end in ((0.0, 2.0), (2.0, 4.0), (4.0, None))
    ]
    # 2 s at 4 frames a second are 8 frames, and the last second of the boxes 4.
    assert summary.clips_sampled_down == 5
    assert summary.frames_decoded == 5 * 6 + 4
    assert any("5 clips are longer than sampling.max_frames" in notice for notice in notices)
    tokens = table(tmp_path / "output", "tokens")
    assert all(row["frame_timestamps"][0] == pytest.approx(row["start_s"] or 0.0, abs=1e-3) for row in tokens)

    again = run(windows)
    assert (again.clips_decoded, again.answers_new, again.failures_new) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_file_that_could_not_be_probed_is_not_answered_whole(
    sample_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its windows are cut by the next run, and nothing stands beside their answers."""
    copy_videos(sample_videos, tmp_path, ["three_boxes.mp4"])
    windows = job(tmp_path, sampling={"num_frames": 4}, window_s=2.0)
    probed = planner_module.probe_clips

    def died_once(
        clips: Sequence[Clip], _options: Mapping[str, object], _limits: object
    ) -> Iterator[list[tuple[Clip, Probe | Failure]]]:
        monkeypatch.setattr(planner_module, "probe_clips", probed)
        yield [(clip, Failure.of(WorkerDiedError("died"), "probe")) for clip in clips]

    monkeypatch.setattr(planner_module, "probe_clips", died_once)
    first = run(windows)
    assert (first.answers_new, first.clips_decoded, first.failures_new) == (0, 0, 1)
    assert run(windows).answers_new > 0
    assert {row["end_s"] for row in table(tmp_path / "output", "answers")} == {2.0, 4.0, None}
    assert {row["start_s"] for row in table(tmp_path / "output", "answers")} == {None, 2.0, 4.0}


@pytest.mark.slow
def test_two_hours_take_no_more_memory_than_a_minute(tmp_path: Path) -> None:
    """240 windows of a file of 36,000 frames, at 1 frame a second: neither process grows with what it has decoded."""
    path = tmp_path / "long.mp4"
    pattern = "testsrc2=size=160x96:rate=5:duration=7200"
    ffmpeg("-f", "lavfi", "-i", pattern, "-c:v", "libx264", "-preset", "ultrafast", "-g", "50", path)
    video, source = Video("long", str(path)), Source("s", path.stat().st_size)
    whole = row_clip(video, source, (), read_probe(str(path)).header.duration_s)
    windows = cut([whole], window_s=30.0, stride_s=30.0, max_windows=10_000)
    assert len(windows) == 240

    process = DecodeProcess(time_limit_s=60.0, memory_limit_gb=1.0)
    here, child = psutil.Process(), psutil.Process(process.pid)
    used: list[tuple[int, int]] = []
    for number, window in enumerate(windows):
        clip = process.decode_clip(str(path), SamplingConfig(fps=1.0), window.start_s, window.end_s)
        assert clip.frame_timestamps.tolist() == [30.0 * number + second for second in range(30)]
        used.append((here.memory_info().rss, child.memory_info().rss))
    process.close()
    early, late = used[10], used[-1]
    assert [after - before < 8 << 20 for before, after in zip(early, late, strict=True)] == [True, True], (early, late)


@pytest.mark.parametrize(("duration_s", "stride_s", "number"), [(10_000.0, 1.0, 10_000), (5_000.5, 0.5, 10_000)])
def test_as_many_windows_as_a_video_may_have(duration_s: float, stride_s: float, number: int) -> None:
    whole = row_clip(Video("v", "/v.mp4"), Source("s", 1), (), duration_s, 250_000)
    assert len(cut([whole], window_s=1.0, stride_s=stride_s, max_windows=10_000)) == number


def test_more_windows_are_one_failure() -> None:
    """A small file can say that it is days long; a higher limit makes other clips of it, which are planned anew."""
    whole = row_clip(Video("v", "/v.mp4"), Source("s", 1), (), 400_000.5, 12)
    (clip,) = cut([whole], window_s=1.0, stride_s=1.0, max_windows=10_000)
    assert clip.problem == (
        "window_s cuts it into 400,001 windows, more than max_windows (10,000): the file says that it is 400000 s long "
        "and has 12 pictures; if that is right, raise max_windows"
    )
    assert clip.clip_id != whole.clip_id
    with pytest.raises(InputRowError, match="400,001 windows"):
        probe_file(clip, {}, lambda _: pytest.fail("it was read"))
    (again,) = cut([whole], window_s=1.0, stride_s=1.0, max_windows=20_000)
    assert again.clip_id != clip.clip_id
