"""Long videos as several clips: a clip for each row of the videos table, cut into windows of equal length. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from pipeline.clip import Clip
from pipeline.plan.plan import as_text
from pipeline.store.keys import clip_id, content_key

# Spans are part of a clip's identity: no trace of how a product was rounded may be in them.
_DIGITS = 6


def cut(clips: Iterable[Clip], *, window_s: float, stride_s: float) -> list[Clip]:
    """Replace the clip of each row by one clip per window.

    A clip that is no longer than a window stays as it is, and so does one whose video has no known length: the probe
    finds out what is wrong with it.

    Args:
        clips: A clip for each row, without questions.
        window_s: Length of a window in seconds.
        stride_s: From the start of one window to the start of the next, in seconds.
    """
    return [window for clip in clips for window in _windows(clip, window_s, stride_s)]


def spanning(clip: Clip, start_s: float | None, end_s: float | None) -> Clip:
    """The clip of another span of the same video."""
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


def _windows(clip: Clip, window_s: float, stride_s: float) -> Iterator[Clip]:
    begin = clip.start_s or 0.0
    end = min(math.inf if clip.end_s is None else clip.end_s, clip.duration_s or 0.0)
    number, start = 0, begin
    # The last window ends where its row does, so that it does not depend on how a length is measured.
    while clip.problem is None and start + window_s < end:
        yield spanning(clip, clip.start_s if number == 0 else start, round(start + window_s, _DIGITS))
        number += 1
        start = round(begin + number * stride_s, _DIGITS)
    if number == 0:
        yield clip
    elif start < end:
        yield spanning(clip, start, clip.end_s)
