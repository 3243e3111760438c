"""Cuts the clip of each row of the videos table into windows of equal length, each a clip. Pure."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from pipeline.clip import Clip
from pipeline.plan.plan import as_text, clip_key
from pipeline.store.keys import clip_id, content_key

# Decimal places of a span's seconds. Spans are part of a clip's identity, which float rounding error must not change.
_DIGITS = 6


def cut(clips: Iterable[Clip], *, window_s: float, stride_s: float, max_windows: int) -> list[Clip]:
    """Replace the clip of each row with one clip per window.

    A clip no longer than a window is returned unchanged. So is a clip whose video has no known length: the probe will
    record what is wrong with the video.

    Args:
        clips: A clip for each row, without questions.
        window_s: Length of a window in seconds.
        stride_s: Seconds from the start of one window to the start of the next.
        max_windows: Most windows of one clip; a clip with more is returned whole, with a `problem`.
    """
    return [window for clip in clips for window in _windows(clip, window_s, stride_s, max_windows)]


def spanning(clip: Clip, start_s: float | None, end_s: float | None) -> Clip:
    """Return the clip of another span of the same video.

    Args:
        clip: A clip of the video, without questions.
        start_s: Start of the span in seconds; None is the start of the file.
        end_s: End of the span in seconds; None is the end of the file.
    """
    key = content_key(clip.source_id, start_s, end_s)
    columns = {"start_s": as_text(start_s), "end_s": as_text(end_s)}
    return replace(
        clip,
        clip_id=clip_id(clip.video_id, key),
        start_s=start_s,
        end_s=end_s,
        content_key=key,
        columns={name: columns.get(name, value) for name, value in clip.columns.items()},
    )


def _windows(clip: Clip, window_s: float, stride_s: float, max_windows: int) -> Iterator[Clip]:
    begin = clip.start_s or 0.0
    end = min(math.inf if clip.end_s is None else clip.end_s, clip.duration_s or 0.0)
    wanted = 1 + math.ceil(max(0.0, end - begin - window_s) / stride_s)
    if clip.problem is None and wanted > max_windows:
        problem = (
            f"window_s cuts it into {wanted:,} windows, more than max_windows ({max_windows:,}): the file says that it "
            f"is {clip.duration_s:g} s long and has {clip.num_frames} pictures; if that is right, raise max_windows"
        )
        key = clip_key(clip.source_id, clip.start_s, clip.end_s, problem)
        yield replace(clip, clip_id=clip_id(clip.video_id, key), content_key=key, problem=problem)
        return
    number, start = 0, begin
    # The last window takes its row's `end_s`, so that its identity does not depend on the measured length.
    while clip.problem is None and start + window_s < end:
        yield spanning(clip, clip.start_s if number == 0 else start, round(start + window_s, _DIGITS))
        number += 1
        start = round(begin + number * stride_s, _DIGITS)
    if number == 0:
        yield clip
    elif start < end:
        yield spanning(clip, start, clip.end_s)
