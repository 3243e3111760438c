"""Turns: what is compared runs one after the other, again and again, and of every arm the least counts.

Of each scale of time one arm runs twice a turn under two names. By how much these two differ (the A/A control) is what
a difference between two arms has to exceed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

# Within which a control has to agree with itself; no difference below it is told either.
CONTROL = 0.05
# The step whose time is that of them all, and which controls compare.
ALL = "all"

# Runs an arm; its seconds by step, `ALL` among them.
Arm = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Patience:
    """How long turns go on for a control to agree.

    Attributes:
        least: Turns at least.
        most: And at most.
        seconds: Wall time behind which no turn begins but the least ones.
    """

    least: int = 3
    most: int = 20
    seconds: float = math.inf


@dataclass(frozen=True)
class Turns:
    """What came of them.

    Attributes:
        least: Of each arm the least seconds by step.
        shortest: Of each arm its shortest run: what a limit is held against, whose kernels run for an instant.
        number: Of each arm its turns.
        controls: Of each arm that ran twice, by how much the two differ, as a share.
    """

    least: Mapping[str, Mapping[str, float]]
    shortest: Mapping[str, float]
    number: Mapping[str, int]
    controls: Mapping[str, float]


@dataclass
class _Least:
    """The least of an arm so far."""

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
        twice: Those that run once more at the end of a turn, for the control.
        patience: How long to go on.
        fewer: Arms that take too long for every turn, and how many they take part in.
        runs: Arms that are too short for one run to be a measurement, and how many are one; the mean counts.
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
    """Whether controls agree with themselves: with one that does not, nothing is claimed."""
    return all(control <= CONTROL for control in controls)


def verdict(
    measured: float, target: float, *controls: float, uncertainty: float | None = None, at_most: bool = False
) -> str:
    """Whether a ratio meets its target; nothing is claimed where a control was not reached, or as near the target.

    Args:
        measured: The ratio.
        target: What it should be at least.
        controls: Of what is compared.
        uncertainty: Of the ratio, as a share; None for the largest of the controls.
        at_most: Whether it should be that at most.
    """
    near = max(controls) if uncertainty is None else uncertainty
    if not settled(*controls) or abs(measured / target - 1) <= near:
        return "no claim"
    return "met" if (measured <= target) == at_most else "not met"


def told_ratio(value: float, *controls: float) -> str:
    """A ratio for a table; empty where a control did not agree, or within the band in which the same differs."""
    return f"{value:.1f}x" if settled(*controls) and abs(value - 1) > CONTROL else ""


def unsettled(*controls: float) -> str:
    """A sentence for below a table, where a control was not reached."""
    return (
        "" if settled(*controls) else f"\nA control is above {CONTROL:.0%}: of what differs here nothing is claimed.\n"
    )
