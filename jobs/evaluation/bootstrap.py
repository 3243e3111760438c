"""Confidence intervals by resampling whole clips: questions about one clip are not independent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 4000
_SEED = 0


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def ratio_interval(clips: NDArray[np.int64], above: NDArray[np.float64], below: NDArray[np.float64]) -> Interval:
    """Ratio of two sums over the same questions, with its interval from a paired bootstrap over clips.

    Args:
        clips: `[n]` which clip a question is about.
        above: `[n]` what is added up in the numerator: 1 where a method is right.
        below: `[n]` in the denominator: 1 where full tokens are right for a relative accuracy, all ones for an
            absolute one.

    Returns:
        NaN throughout if the denominator is zero.
    """
    _, places = np.unique(clips, return_inverse=True)
    per_clip = np.stack([np.bincount(places, weights=values) for values in (above, below)])
    number = per_clip.shape[1]
    drawn = np.random.default_rng(_SEED).integers(number, size=(_RESAMPLES, number))
    sums = per_clip[:, drawn].sum(axis=-1)
    total = per_clip.sum(axis=-1)
    # A resample in which full tokens are never right says nothing; with more than a few clips there is none.
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sums[0] / sums[1]
        value = float(total[0] / total[1])
    low, high = np.nanpercentile(ratios, (2.5, 97.5)) if np.isfinite(ratios).any() else (np.nan, np.nan)
    return Interval(value, float(low), float(high))
