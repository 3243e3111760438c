"""Measurement in turns: the arms run one after the other, again and again, and the least time of each arm counts.

One arm of each time scale runs twice a turn under two names. The difference between these two (the A/A control) is the
least difference that may be reported between two arms.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

# The largest control at which results are reported; smaller differences between arms are not reported either.
CONTROL = 0.05
# The step that holds the total time, which controls compare.
ALL = "all"

# Runs an arm; returns its seconds by step, `ALL` among them.
Arm = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Patience:
    """How long turns go on for a control to agree.

    Attributes:
        least: The fewest turns.
        most: The most turns.
        seconds: Wall time after which no turn starts, except the fewest.
    """

    least: int = 3
    most: int = 20
    seconds: float = math.inf


@dataclass(frozen=True)
class Turns:
    """Results of the turns.

    Attributes:
        least: Least seconds of each arm by step.
        shortest: Shortest single run of each arm, which is compared with limits.
        number: Turns of each arm.
        controls: Relative difference between the two names of each arm that ran twice.
    """

    least: Mapping[str, Mapping[str, float]]
    shortest: Mapping[str, float]
    number: Mapping[str, int]
    controls: Mapping[str, float]


@dataclass
class _Least:
    """The least times of an arm so far."""

    seconds: dict[str, float] = field(default_factory=dict)
    shortest: float = math.inf
    number: int = 0

    def take(self, arm: Arm, runs: int) -> None:
        self.number += 1
        several = [arm() for _ in range(runs)]
        self.shortest = min(self.shortest, *(seconds[ALL] for seconds in several))
        for step in several[0]:
            mean = sum(seconds[step] for seconds in several) / runs
            self.seconds[step] = min(mean, self.seconds.get(step, math.inf))


def take_turns(
    arms: Mapping[str, Arm],
    *,
    twice: Sequence[str],
    patience: Patience,
    fewer: Mapping[str, int] | None = None,
    runs: Mapping[str, int] | None = None,
    beside: Callable[[], object] = lambda: None,
) -> Turns:
    """Run all arms in turns until every control agrees, or patience ends.

    Args:
        arms: By name, in the order of a turn.
        twice: Arms that run once more at the end of a turn, for the control.
        patience: How long to go on.
        fewer: Arms that are too slow for every turn, with the number of turns that they take part in.
        runs: Arms that are too short to time once, with the number of runs whose mean is one measurement.
        beside: Runs at the end of every turn.
    """
    begun, fewer, runs = time.monotonic(), fewer or {}, runs or {}
    found, again = {name: _Least() for name in arms}, {name: _Least() for name in twice}
    controls = dict.fromkeys(twice, math.inf)
    turns = 0
    while turns < patience.least or (
        not settled(*controls.values()) and turns < patience.most and time.monotonic() - begun < patience.seconds
    ):
        for name, arm in arms.items():
            if turns < fewer.get(name, patience.most):
                found[name].take(arm, runs.get(name, 1))
        for name in twice:
            again[name].take(arms[name], runs.get(name, 1))
            controls[name] = abs(again[name].seconds[ALL] / found[name].seconds[ALL] - 1)
        beside()
        turns += 1
    return Turns(
        least={name: one.seconds for name, one in found.items()},
        shortest={name: one.shortest for name, one in found.items()},
        number={name: one.number for name, one in found.items()},
        controls=controls,
    )


def settled(*controls: float) -> bool:
    """Say whether all controls are small enough for results to be reported."""
    return all(control <= CONTROL for control in controls)


def unsettled(*controls: float) -> str:
    """Return a warning to put below a table, or nothing if all controls are small enough."""
    return "" if settled(*controls) else f"\nA control is above {CONTROL:.0%}: differences here are not reported.\n"
