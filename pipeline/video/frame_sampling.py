"""Choose the frames of a clip that the model sees. All functions are pure and use presentation times."""

import numpy as np
from numpy.typing import NDArray

from pipeline.config import SamplingConfig
from pipeline.errors import UnreadableVideoError

# Decoders report times in single precision: after some hours, equal times differ by up to half a millisecond.
_TOLERANCE_S = 1e-3


def sample_frames(
    frame_times: NDArray[np.float64],
    sampling: SamplingConfig,
    start_s: float | None,
    end_s: float | None,
    *,
    video_end_s: float | None = None,
) -> NDArray[np.int64]:
    """Choose the frames of a clip.

    Wanted times are spread over the clip, and each selects the frame on screen at that time, so a video with a variable
    frame rate is sampled by time. `num_frames` spreads them from the first frame of the clip to its last (as LLaVA-NeXT
    does). `fps` steps from the first frame; if that gives more than `max_frames`, it selects `max_frames`, spread
    evenly. No frame is selected twice, so a clip with too few frames gives all of them. A clip in which no frame starts
    (a video with a low frame rate) gives the frame on screen.

    Args:
        frame_times: `[num_frames_of_video]` presentation times in seconds, ascending.
        sampling: `num_frames`, or `fps` with `max_frames`.
        start_s: Start of the clip in seconds; None for the beginning.
        end_s: End of the clip in seconds, exclusive; None for the end.
        video_end_s: When the last frame ends, in seconds; None if that is not known.

    Returns:
        `[F]` indices into `frame_times`, ascending, unique, at least one.

    Raises:
        UnreadableVideoError: no frame is on screen in the span.
    """
    low = -np.inf if start_s is None else start_s - _TOLERANCE_S
    high = np.inf if end_s is None else end_s - _TOLERANCE_S
    inside = np.flatnonzero((frame_times >= low) & (frame_times < high))
    if inside.size == 0:
        if (still := _on_screen(frame_times, start_s, end_s, video_end_s)) is not None:
            return np.array([still], dtype=np.int64)
        length = f"{frame_times[-1]:.2f} s" if frame_times.size else "no frames"
        end = "the end" if end_s is None else f"{end_s} s"
        raise UnreadableVideoError(f"no frame between {start_s or 0} s and {end}: the video has {length}")
    times = frame_times[inside]
    wanted = _wanted_times(times[0], times[-1], sampling)
    shown = np.searchsorted(times, wanted + _TOLERANCE_S, side="right") - 1
    indices: NDArray[np.int64] = inside[np.unique(shown)].astype(np.int64)
    return indices


def _on_screen(
    frame_times: NDArray[np.float64], start_s: float | None, end_s: float | None, video_end_s: float | None
) -> int | None:
    """Return the index of the frame on screen in a span in which no frame starts; None if there is none."""
    if start_s is None or (end_s is not None and end_s <= start_s):
        return None
    index = int(np.searchsorted(frame_times, start_s)) - 1
    until = frame_times[index + 1] if index + 1 < frame_times.size else video_end_s
    return index if index >= 0 and until is not None and start_s < until else None


def is_sampled_down(frame_timestamps: NDArray[np.float64], sampling: SamplingConfig) -> bool:
    """Return whether a clip has fewer frames than its `fps` requires, because of `max_frames`.

    Args:
        frame_timestamps: `[F]` times of the sampled frames, including the first and last frame of the clip.
        sampling: The settings that chose these frames.
    """
    return sampling.fps is not None and _steps(frame_timestamps[0], frame_timestamps[-1], sampling.fps) > (
        sampling.max_frames
    )


def _steps(first: float, last: float, fps: float) -> int:
    return int(np.floor((last - first + _TOLERANCE_S) * fps)) + 1


def _wanted_times(first: float, last: float, sampling: SamplingConfig) -> NDArray[np.float64]:
    if sampling.fps is None:
        return np.linspace(first, last, sampling.num_frames or 1)
    steps = _steps(first, last, sampling.fps)
    if steps > sampling.max_frames:
        return np.linspace(first, last, sampling.max_frames)
    return first + np.arange(steps) / sampling.fps
