"""Sizes of Qwen3-VL's frames, against the source of transformers' video processor."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvid.errors import InvalidFeaturesError
from flashvid.models.qwen.qwen3_vl.preprocess import Qwen3FramePreprocessor
from tests.flashvid.models.test_preprocess import theirs

PUBLISHED = Qwen3FramePreprocessor(16, 2, 2, min_pixels=4096, max_pixels=25165824)


@settings(max_examples=300, deadline=None)
@given(
    count=st.integers(2, 768),
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    bounds=st.tuples(st.integers(1, 30000), st.integers(1, 30000)),
)
def test_target_size_is_transformers_smart_resize(count: int, height: int, width: int, bounds: tuple[int, int]) -> None:
    """Sizes agree for all numbers and sizes of frames and all bounds, and both refuse the same frames."""
    low, high = (bound * 32 * 32 for bound in sorted(bounds))
    ours = Qwen3FramePreprocessor(16, 2, 2, min_pixels=low, max_pixels=high)
    expected = None
    with contextlib.suppress(ValueError):
        smart_resize = theirs("smart_resize", "qwen3_vl")
        expected = smart_resize(count, height, width, 2, factor=32, min_pixels=low, max_pixels=high)
    if expected is None:
        with pytest.raises(InvalidFeaturesError, match="too long and thin"):
            ours.for_video(count).target_size(height, width)
    else:
        assert ours.for_video(count).target_size(height, width) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (2, (704, 1280)),  # rounded to multiples of 32: 22.5 to 22
        (32, (640, 1152)),  # 25165824 / 32 pixels a frame
        (768, (128, 224)),
    ],
)
def test_target_size_by_hand(count: int, expected: tuple[int, int]) -> None:
    """Sizes of HD frames in videos of several lengths are computed by hand."""
    assert PUBLISHED.for_video(count).target_size(720, 1280) == expected


@settings(max_examples=300, deadline=None)
@given(count=st.integers(1, 100), height=st.integers(20, 1200), width=st.integers(20, 1200))
def test_resizing_again_changes_nothing(count: int, height: int, width: int) -> None:
    """Frames that the decode actor resized pass the encode actor unchanged, also odd numbers of frames."""
    ours = Qwen3FramePreprocessor(16, 2, 2, min_pixels=64 * 32 * 32, max_pixels=1200 * 32 * 32)
    # Strides are 0: only the shape is read.
    frames = np.broadcast_to(np.uint8(0), (count, *ours.for_video(count).target_size(height, width), 3))
    assert ours.resized_size(frames) == frames.shape[1:3]


def test_bounds_of_the_user_are_of_one_frame() -> None:
    """As in every family, the size does not depend on the length of the video."""
    ours = Qwen3FramePreprocessor(16, 2, 2, min_pixels=1, max_pixels=256 * 32 * 32, per_frame=True)
    assert {ours.for_video(count).target_size(720, 1280) for count in (1, 2, 5, 64, 768)} == {(384, 672)}


def test_a_single_frame_counts_as_a_step() -> None:
    """Transformers refuses a single frame; this library repeats it, as it repeats an odd last frame."""
    assert PUBLISHED.for_video(1).target_size(720, 1280) == PUBLISHED.for_video(2).target_size(720, 1280)


def test_frames_given_a_few_at_a_time() -> None:
    """Each part gets the size of the whole video, if that is known."""
    ours = Qwen3FramePreprocessor(16, 2, 2, min_pixels=32 * 32, max_pixels=40 * 32 * 32)
    frames = np.random.default_rng(0).integers(0, 256, (9, 70, 130, 3), dtype=np.uint8)
    whole = ours.resize(frames)
    parts = [ours.for_video(9).resize(frames[first : first + 4]) for first in (0, 4, 8)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert ours.resize(frames[:4]).shape != whole[:4].shape
