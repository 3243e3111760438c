"""Accuracy of a set of scored answers: overall, by category, and against another set, with intervals over videos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Unanswered = Literal["wrong", "left-out"]
_RESAMPLES, _SEED = 4000, 0


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Item:
    """One question of one video, and how it was answered.

    Attributes:
        video_id: The video.
        question_id: The question.
        is_right: None if there is no answer.
        is_read: Whether an answer says which option it means.
        categories: Value by name of category.
        window: `clip_id`, if the job cuts videos into windows; it changes if the file is replaced.
    """

    video_id: str
    question_id: str
    is_right: bool | None
    is_read: bool = True
    categories: Mapping[str, str] = field(default_factory=dict)
    window: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """The identity of the question, the same in every run."""
        return self.video_id, self.question_id, self.window


@dataclass(frozen=True)
class Accuracy:
    """A share of right answers.

    Attributes:
        questions: Number of questions that count.
        right: Number of right answers among them.
        accuracy: Its value and 95 % interval from a bootstrap over videos; None if no question counts.
    """

    questions: int
    right: int
    accuracy: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """How good a run's answers are.

    Attributes:
        overall: Accuracy over all questions.
        by_category: Accuracy for each value of each category.
        mean_over: For each category, the unweighted mean of its values' accuracies.
        unanswered: Questions without an answer; `unanswered_count_as` says how they count in the numbers above.
        unread: Answers that do not say which option they mean; they are wrong.
    """

    overall: Accuracy
    by_category: Mapping[str, Mapping[str, Accuracy]]
    mean_over: Mapping[str, float | None]
    unanswered: int
    unanswered_count_as: Unanswered
    unread: int


@dataclass(frozen=True)
class Comparison:
    """Two runs on the questions that both have.

    Attributes:
        questions: Number of questions that count in both.
        accuracy: Accuracy of the first run on these.
        other_accuracy: Accuracy of the other run on these.
        difference: First minus other, with its interval from a paired bootstrap over videos; None without questions.
        only_first: Questions that only the first run has right.
        only_other: Questions that only the other one has right.
    """

    questions: int
    accuracy: float | None
    other_accuracy: float | None
    difference: Interval | None
    only_first: int
    only_other: int


def evaluate(items: Sequence[Item], unanswered: Unanswered = "wrong") -> Evaluation:
    """Add up scores.

    Args:
        items: Every question with an expected answer.
        unanswered: Whether a question without an answer is wrong, or left out of every number but `unanswered`.
    """
    counted = _counted(items, unanswered)
    names = list(dict.fromkeys(name for item in counted for name in item.categories))
    by_category = {name: _by_value(counted, name) for name in names}
    means = {name: _mean(list(values.values())) for name, values in by_category.items()}
    missing, unread = sum(item.is_right is None for item in items), sum(not item.is_read for item in items)
    return Evaluation(_accuracy(counted), by_category, means, missing, unanswered, unread)


def compare(items: Sequence[Item], others: Sequence[Item], unanswered: Unanswered = "wrong") -> Comparison:
    """Compare two runs question by question; questions that only one of them has do not count.

    Args:
        items: Items of the first run.
        others: Items of the other run.
        unanswered: As in `evaluate`.
    """
    of_other = {item.key: item for item in _counted(others, unanswered)}
    pairs = [(item, of_other[item.key]) for item in _counted(items, unanswered) if item.key in of_other]
    if not pairs:
        return Comparison(0, None, None, None, 0, 0)
    right = np.array([[bool(item.is_right), bool(other.is_right)] for item, other in pairs], dtype=np.float64)
    difference, (mean, other_mean) = right[:, 0] - right[:, 1], right.mean(axis=0)
    interval = _interval([item for item, _ in pairs], difference)
    only = int((difference > 0).sum()), int((difference < 0).sum())
    return Comparison(len(pairs), float(mean), float(other_mean), interval, *only)


def _counted(items: Sequence[Item], unanswered: Unanswered) -> list[Item]:
    return [item for item in items if unanswered == "wrong" or item.is_right is not None]


def _by_value(items: Sequence[Item], name: str) -> dict[str, Accuracy]:
    values = sorted({item.categories[name] for item in items if name in item.categories})
    return {value: _accuracy([item for item in items if item.categories.get(name) == value]) for value in values}


def _accuracy(items: Sequence[Item]) -> Accuracy:
    right = np.array([bool(item.is_right) for item in items], dtype=np.float64)
    return Accuracy(len(items), int(right.sum()), _interval(items, right))


def _interval(items: Sequence[Item], values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Interval | None:
    if not items:
        return None
    _, videos = np.unique([item.video_id for item in items], return_inverse=True)
    return ratio_interval(videos.astype(np.int64), values, np.ones(len(items)))


def _mean(accuracies: Sequence[Accuracy]) -> float | None:
    values = [each.accuracy.value for each in accuracies if each.accuracy is not None]
    return float(np.mean(values)) if values else None


def ratio_interval(clips: NDArray[np.int64], above: NDArray[np.float64], below: NDArray[np.float64]) -> Interval:
    """Return the ratio of two sums over the same questions, with its interval from a paired bootstrap over clips.

    Args:
        clips: `[n]` which clip a question is about.
        above: `[n]` terms of the numerator: 1 where a method is right.
        below: `[n]` terms of the denominator: 1 where full tokens are right, for a relative accuracy; all ones for an
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
    # A resample in which full tokens are never right has no ratio; with more than a few clips there is none.
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = sums[0] / sums[1]
        value = float(total[0] / total[1])
    low, high = np.nanpercentile(ratios, (2.5, 97.5)) if np.isfinite(ratios).any() else (np.nan, np.nan)
    return Interval(value, float(low), float(high))
