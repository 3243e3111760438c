"""Long videos as several clips: rows of the videos table, cut into windows of equal length. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pipeline.inputs import Video
from pipeline.inputs.videos import Source

# Spans are part of a clip's identity: no trace of how a product was rounded may be in them.
_DIGITS = 6


def cut(
    videos: Sequence[Video],
    sources: Sequence[Source],
    durations: Mapping[str, float],
    *,
    window_s: float,
    stride_s: float,
) -> tuple[list[Video], list[Source]]:
    """Replace each row by one row per window.

    A row whose video is no longer than a window stays as it is, and so does one of unknown length: what is wrong with
    it will be found out when it is probed.

    Args:
        videos: Rows of the videos table.
        sources: What the bytes of each are, in the same order.
        durations: Seconds, by `source_id`.
        window_s: Length of a window in seconds.
        stride_s: From the start of one window to the start of the next, in seconds.

    Returns:
        The windows as rows with spans, and the source of each, in the same order.
    """
    rows = [
        (window, source)
        for video, source in zip(videos, sources, strict=True)
        for window in _windows(video, durations.get(source.source_id), window_s, stride_s)
    ]
    return [video for video, _ in rows], [source for _, source in rows]


def _windows(video: Video, duration_s: float | None, window_s: float, stride_s: float) -> Iterator[Video]:
    begin = video.start_s or 0.0
    end = min(math.inf if video.end_s is None else video.end_s, duration_s or 0.0)
    number, start = 0, begin
    # The last window ends where its row does, so that it does not depend on how a length is measured.
    while video.problem is None and start + window_s < end:
        yield replace(video, start_s=video.start_s if number == 0 else start, end_s=round(start + window_s, _DIGITS))
        number += 1
        start = round(begin + number * stride_s, _DIGITS)
    if number == 0:
        yield video
    elif start < end:
        yield replace(video, start_s=start)
