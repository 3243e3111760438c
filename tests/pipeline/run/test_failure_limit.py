"""`on_error` and `max_failures`: when a run stops for what has failed."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.clip import Failure
from pipeline.errors import TooManyFailuresError
from pipeline.run.failure_limit import FailureLimit
from tests.support.helpers import clip, job

BROKEN = Failure("decode", "UnreadableVideoError", "permanent", "cut short", "")
OF_A_QUESTION = Failure("answer", "InputRowError", "permanent", "no title", "", "q1")


def failures_until_it_stops(planned: int | None = 10, **settings: Any) -> int | None:
    """How many clips may fail, of ten; None if all may."""
    limit = FailureLimit(job(**settings))
    try:
        if planned is not None:
            limit.planned(planned)
        for number in range(10):
            limit.note(clip(str(number)), BROKEN)
    except TooManyFailuresError:
        return number
    return None


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, None),
        ({"max_failures": 3}, 3),
        ({"max_failures": 10}, None),
        ({"max_failures": 0.25}, 2),
        ({"max_failures": 0.05}, 0),
        ({"on_error": "raise"}, 0),
        ({"on_error": "raise", "max_failures": 3}, 0),
    ],
)
def test_a_number_or_a_share_of_the_clips_may_fail(settings: dict[str, Any], allowed: int | None) -> None:
    """One more stops the run."""
    assert failures_until_it_stops(**settings) == allowed


def test_a_share_is_of_what_is_planned() -> None:
    """Before that is known, only numbers count; then what failed so far counts at once."""
    assert failures_until_it_stops(planned=None, max_failures=0.25) is None
    assert failures_until_it_stops(planned=None, max_failures=2) == 2
    limit = FailureLimit(job(max_failures=0.25))
    limit.note(clip("a"), BROKEN)
    limit.note(clip("b"), BROKEN)
    with pytest.raises(TooManyFailuresError, match=r"2 clips of 4 failed, more than max_failures \(0\.25\)"):
        limit.planned(4)


def test_a_clip_counts_once() -> None:
    """However many of its questions fail."""
    limit = FailureLimit(job(max_failures=1))
    for _ in range(5):
        limit.note(clip("a"), OF_A_QUESTION)
    with pytest.raises(TooManyFailuresError):
        limit.note(clip("b"), OF_A_QUESTION)


def test_what_stopped_the_run_is_named() -> None:
    """The row, the stage, the type and the message."""
    limit = FailureLimit(job(on_error="raise"))
    with pytest.raises(
        TooManyFailuresError, match="decode stage failed with UnreadableVideoError: cut short"
    ) as caught:
        limit.note(clip("a"), BROKEN)
    assert caught.value.row == "video_id 'video-a'"


@pytest.mark.parametrize("settings", [{"max_failures": 0}, {"max_failures": -1}, {"on_error": "ignore"}])
def test_what_means_nothing_is_refused(settings: dict[str, Any]) -> None:
    """No failure at all is `on_error: raise`."""
    with pytest.raises(ValidationError):
        job(**settings)
