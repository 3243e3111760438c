"""Frame sampling against a naive implementation in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.config import SamplingConfig
from pipeline.errors import UnreadableVideoError
from pipeline.video.frame_sampling import is_sampled_down, sample_frames

# Multiples of 1/50 s: whatever is asked below, a wanted time meets a frame exactly or misses it by over 2 ms.
TICK = Fraction(1, 50)
# 2 hours into the file single precision is 0.2 ms off.
STARTS = st.integers(0, 2 * 60 * 60 * 50)
GAPS = st.lists(st.integers(1, 12), max_size=40)


@st.composite
def frame_ticks(draw: st.DrawFn) -> list[int]:
    """Presentation times in ticks: variable rate, starting anywhere."""
    times = [draw(STARTS)]
    for gap in draw(GAPS):
        times.append(times[-1] + gap)
    return times


SPANS = st.tuples(st.none() | st.integers(-5, 300), st.none() | st.integers(-5, 300))
SAMPLINGS = st.one_of(
    st.builds(SamplingConfig, num_frames=st.integers(1, 9)),
    st.builds(
        SamplingConfig, fps=st.sampled_from([0.5, 1, 2, 5, 10, 25, 50]), max_frames=st.integers(1, 9) | st.just(10_000)
    ),
)


def seconds(ticks: list[int]) -> NDArray[np.float64]:
    """Times as a decoder reports them: single precision."""
    return np.array([float(tick * TICK) for tick in ticks], dtype=np.float32).astype(np.float64)


def wanted_times(first: Fraction, last: Fraction, sampling: SamplingConfig) -> list[Fraction]:
    """The moments to look at, one by one."""
    count = sampling.num_frames
    if sampling.fps is not None:
        step, times = 1 / Fraction(sampling.fps), [first]
        while times[-1] + step <= last:
            times.append(times[-1] + step)
        if len(times) <= sampling.max_frames:
            return times
        count = sampling.max_frames
    assert count is not None
    return [first] if count == 1 else [first + (last - first) * i / (count - 1) for i in range(count)]


def naive(ticks: list[int], sampling: SamplingConfig, start: int | None, end: int | None) -> list[int]:
    """For each moment the frame on screen, by walking over all frames of the span; each frame once.

    If none begins in the span, the one that is on screen in it.
    """
    times = {i: tick * TICK for i, tick in enumerate(ticks)}
    span = [
        i for i, time in times.items() if (start is None or time >= start * TICK) and (end is None or time < end * TICK)
    ]
    if not span and start is not None and (end is None or end > start):
        span = [i for i, time in times.items() if time < start * TICK and i + 1 in times][-1:]  # on screen at the start
        span = [i for i in span if times[i + 1] > start * TICK]
    chosen: list[int] = []
    for wanted in wanted_times(times[span[0]], times[span[-1]], sampling) if span else []:
        shown = max(i for i in span if times[i] <= wanted)
        if shown not in chosen:
            chosen.append(shown)
    return chosen


@settings(max_examples=300, deadline=None)
@given(frame_ticks(), SAMPLINGS, SPANS)
def test_it_equals_the_naive_implementation(
    ticks: list[int], sampling: SamplingConfig, span: tuple[int | None, int | None]
) -> None:
    """At any rate, in any span, hours into the file; and the properties that users rely on."""
    start, end = (None if edge is None else ticks[0] + edge for edge in span)
    expected = naive(ticks, sampling, start, end)
    in_seconds = [None if edge is None else float(edge * TICK) for edge in (start, end)]
    if not expected:
        with pytest.raises(UnreadableVideoError, match="no frame between"):
            sample_frames(seconds(ticks), sampling, *in_seconds)
        return
    indices = sample_frames(seconds(ticks), sampling, *in_seconds)
    assert indices.dtype == np.int64
    assert indices.tolist() == expected
    assert (np.diff(indices) > 0).all()
    inside = [i for i, t in enumerate(ticks) if (start is None or t >= start) and (end is None or t < end)]
    if not inside:
        return
    assert set(indices) <= set(inside)
    assert indices[0] == inside[0]
    if (sampling.num_frames or 0) >= 2:
        assert indices[-1] == inside[-1]
    assert len(indices) <= (sampling.num_frames or sampling.max_frames)


@pytest.mark.parametrize(
    ("sampling", "span", "expected"),
    [
        ({"num_frames": 1}, (None, None), [0]),
        ({"num_frames": 2}, (None, None), [0, 99]),
        ({"num_frames": 5}, (None, None), [0, 24, 49, 74, 99]),
        ({"num_frames": 3}, (2.0, 6.0), [20, 39, 59]),
        ({"num_frames": 2}, (None, 0.05), [0]),
        ({"num_frames": 3}, (9.85, None), [99]),
        ({"fps": 1.0}, (None, None), [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]),
        ({"fps": 1.0}, (0.5, 3.5), [5, 15, 25]),
        ({"fps": 1.0, "max_frames": 4}, (None, None), [0, 33, 66, 99]),
        ({"fps": 0.01}, (None, None), [0]),
        ({"fps": 1000.0, "max_frames": 1000}, (None, 0.3), [0, 1, 2]),
    ],
)
def test_ten_seconds_at_ten_frames_a_second(
    sampling: dict[str, float], span: tuple[float | None, float | None], expected: list[int]
) -> None:
    """Cases one can check by hand: frame i is shown at i / 10 s, the end of a span is exclusive."""
    indices = sample_frames(np.arange(100) / 10, SamplingConfig.model_validate(sampling), *span)
    assert indices.tolist() == expected


def test_a_variable_rate_is_sampled_by_time_not_by_number() -> None:
    """90 frames in the first second, 10 in the other nine: half the samples lie in the second half of the time."""
    times = np.concatenate([np.arange(90) / 90, np.arange(1, 11) * 0.9])
    indices = sample_frames(times, SamplingConfig(num_frames=7), None, None)
    assert indices.tolist() == [0, 90, 92, 94, 95, 97, 99]


@pytest.mark.parametrize("num_frames", [4, 5, 100])
def test_fewer_frames_than_asked_gives_each_once(num_frames: int) -> None:
    """Nothing is repeated to fill up."""
    indices = sample_frames(np.array([0.0, 0.1, 0.2, 0.3]), SamplingConfig(num_frames=num_frames), None, None)
    assert indices.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("times", "span", "message"),
    [
        ([0.0, 1.0], (5.0, None), r"no frame between 5\.0 s and the end: the video has 1\.00 s"),
        ([0.0, 1.0], (1.25, 1.75), r"no frame between 1\.25 s and 1\.75 s: the video has 1\.00 s"),
        ([1.0, 2.0], (None, 0.5), r"no frame between 0 s and 0\.5 s: "),
        ([], (None, None), "the video has no frames"),
    ],
)
def test_a_span_without_a_frame_is_said(
    times: list[float], span: tuple[float | None, float | None], message: str
) -> None:
    """With the span and the length there is."""
    with pytest.raises(UnreadableVideoError, match=message):
        sample_frames(np.array(times), SamplingConfig(num_frames=4), *span)


def test_a_span_between_two_frames_gives_the_one_on_screen() -> None:
    """Slides and time lapses; of the last frame only the video's end says how long it stays."""
    times, one = np.array([0.0, 60.0]), SamplingConfig(num_frames=4)
    assert sample_frames(times, one, 30.0, 50.0).tolist() == [0]
    assert sample_frames(times, one, 90.0, None, video_end_s=120.0).tolist() == [1]
    with pytest.raises(UnreadableVideoError, match="no frame between"):
        sample_frames(times, one, 120.0, None, video_end_s=120.0)
    with pytest.raises(UnreadableVideoError, match="no frame between"):
        sample_frames(times, one, 90.0, None)


@pytest.mark.parametrize(
    ("sampling", "down"),
    [
        ({"fps": 1.0, "max_frames": 10}, False),
        ({"fps": 1.0, "max_frames": 9}, True),
        ({"fps": 2.0, "max_frames": 10}, True),
        ({"num_frames": 4}, False),
    ],
)
def test_a_clip_that_max_frames_cut_down_is_known(sampling: dict[str, float], down: bool) -> None:
    """From the sampled times alone: ten frames in 9.5 seconds at one frame a second."""
    config = SamplingConfig.model_validate(sampling)
    times = np.arange(20) / 2
    assert is_sampled_down(times[sample_frames(times, config, None, None)], config) == down
