"""Turns and controls: what counts, when they end, and what may be said then."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest

from jobs.bench.turns import ALL, Patience, settled, take_turns


def test_arms_run_in_turns_until_the_control_agrees() -> None:
    """The least of every arm and step; the control compares two runs of one arm, the second at the end of a turn."""
    order: list[str] = []
    times: dict[str, Iterator[float]] = {"a": iter([4.0, 3.0, 3.5]), "b": iter([2.0, 3.0, 1.0, 1.0, 1.0, 0.98])}

    def run(name: str) -> dict[str, float]:
        order.append(name)
        seconds = next(times[name])
        return {ALL: seconds, "half": seconds / 2}

    found = take_turns(
        {"a": lambda: run("a"), "b": lambda: run("b")},
        twice=["b"],
        patience=Patience(least=1, most=9),
        beside=lambda: order.append("beside"),
    )
    # b's own are 2 and then 1, its second self's 3 and then 1.
    assert order == ["a", "b", "b", "beside"] * 2
    assert found.least == {"a": {ALL: 3.0, "half": 1.5}, "b": {ALL: 1.0, "half": 0.5}}
    assert found.controls == {"b": 0.0}


def test_patience_ends() -> None:
    """After the most turns, or when the time is over, but never before the least; an arm may take part in fewer."""
    spent = iter(range(1, 100))

    def never() -> dict[str, float]:
        return {ALL: float(next(spent) % 2 + 1)}

    arms = {"slow": lambda: {ALL: 1.0}, "odd": never}
    found = take_turns(arms, twice=["odd"], patience=Patience(least=2, most=5), fewer={"slow": 1})
    assert found.number == {"slow": 1, "odd": 5}
    assert found.controls["odd"] == pytest.approx(0.5)
    timed = take_turns(arms, twice=["odd"], patience=Patience(least=2, most=5, seconds=0))
    assert timed.number == {"slow": 2, "odd": 2}


def test_short_arms_run_several_times_a_turn() -> None:
    """Their mean is one measurement, so that the least of as many of them counts as of any other arm."""
    spent = iter([3.0, 1.0, 2.0, 6.0, 4.0, 4.0, 5.0, 3.0])
    arms = {"long": lambda: {ALL: 9.0}, "short": lambda: {ALL: next(spent)}}
    found = take_turns(arms, twice=["short"], patience=Patience(least=2, most=2), runs={"short": 2})
    assert found.number == {"long": 2, "short": 2}
    # Means of 2 and then 4, and of its second self of 4 and then 4.
    assert found.least["short"] == {ALL: 2.0}
    assert found.shortest == {"long": 9.0, "short": 1.0}
    assert found.controls == {"short": 1.0}


def test_controls_above_five_percent_are_not_settled() -> None:
    assert settled()
    assert settled(0.05)
    assert not settled(0.01, 0.06)
    assert not settled(math.inf)
