"""Measurement in turns: the arms run one after the other, again and again, and the least time of each arm counts.

One arm of each time scale runs twice a turn under two names. The difference between these two (the A/A control) is the
least difference that may be reported between two arms.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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


# One measurement of an arm: mean seconds by step, and its shortest run.
_Taken = tuple[dict[str, float], float]


def _take(arm: Arm, runs: int) -> _Taken:
    several = [arm() for _ in range(runs)]
    means = {step: sum(seconds[step] for seconds in several) / runs for step in several[0]}
    return means, min(seconds[ALL] for seconds in several)


def _least(taken: Sequence[_Taken]) -> dict[str, float]:
    return {step: min(means[step] for means, _ in taken) for step in taken[0][0]}


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
    found: dict[str, list[_Taken]] = {name: [] for name in arms}
    again: dict[str, list[_Taken]] = {name: [] for name in twice}
    controls = dict.fromkeys(twice, math.inf)
    turns = 0
    while turns < patience.least or (
        not settled(*controls.values()) and turns < patience.most and time.monotonic() - begun < patience.seconds
    ):
        for name, arm in arms.items():
            if turns < fewer.get(name, patience.most):
                found[name].append(_take(arm, runs.get(name, 1)))
        for name in twice:
            again[name].append(_take(arms[name], runs.get(name, 1)))
            controls[name] = abs(_least(again[name])[ALL] / _least(found[name])[ALL] - 1)
        beside()
        turns += 1
    return Turns(
        least={name: _least(taken) for name, taken in found.items()},
        shortest={name: min(shortest for _, shortest in taken) for name, taken in found.items()},
        number={name: len(taken) for name, taken in found.items()},
        controls=controls,
    )


def settled(*controls: float) -> bool:
    """Say whether all controls are small enough for results to be reported."""
    return all(control <= CONTROL for control in controls)


def unsettled(*controls: float) -> str:
    """Return a warning to put below a table, or nothing if all controls are small enough."""
    return "" if settled(*controls) else f"\nA control is above {CONTROL:.0%}: differences here are not reported.\n"
