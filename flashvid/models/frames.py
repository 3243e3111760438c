"""Frames of a video with their times, as a caller gives them."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flashvid.errors import InvalidFeaturesError


def checked_frames(
    frames: NDArray[np.uint8] | Tensor, timestamps: ArrayLike
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """One video's frames uint8 `[F, H, W, 3]` and seconds `[F]`, as arrays.

    Raises:
        InvalidFeaturesError: another shape, dtype or order; an image, or several videos.
    """
    try:
        pixels = frames.cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
        times = np.array(timestamps, dtype=np.float64)
    except ValueError as error:  # lists of arrays that differ in shape
        raise InvalidFeaturesError(f"frames and timestamps must be arrays, of one video: {error}") from None
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        several = {3: ": one image is no video", 5: ": encode one video at a time"}.get(pixels.ndim, "")
        given = f"{pixels.dtype} {list(pixels.shape)}"
        raise InvalidFeaturesError(f"frames must be uint8 [F, H, W, 3], not {given}{several}")
    if times.shape != pixels.shape[:1]:
        raise InvalidFeaturesError(f"{len(pixels)} frames need as many timestamps, not {list(times.shape)}")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise InvalidFeaturesError("timestamps must be finite and not descend")
    return cast("NDArray[np.uint8]", pixels), times
