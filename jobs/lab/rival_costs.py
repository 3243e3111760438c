"""Costs of every compression method of the registry, at the same number of tokens."""

from dataclasses import dataclass
from functools import partial

from flashvid import CompressionConfig, compress
from flashvid.config import MethodName
from flashvid.methods import METHODS
from jobs.bench.cost import SHORTEST_SECONDS, Clip, cpu_seconds, runs_to_fill
from jobs.bench.turns import ALL, Patience, take_turns, unsettled
from jobs.lab.operations import CountOperations

PATIENCE = Patience(least=3, most=10, seconds=20)
# Runs twice a turn.
_CONTROL: MethodName = "flashvid"


@dataclass(frozen=True)
class RivalMeasurement:
    """One method on one clip; time is CPU seconds."""

    method: MethodName
    retention_ratio: float
    kept: int
    """Tokens: whole frames and whole grids are rounded up, all others keep the budget."""
    seconds: float
    operations: int
    control: float
    """By how much FlashVID's time differed from itself in the same turns."""


def measure_rivals(clip: Clip, retention_ratio: float, patience: Patience = PATIENCE) -> list[RivalMeasurement]:
    """All methods in turns on one clip of features `[T, N, D]` and scores `[T, N]`."""
    # Methods that work inside the decoder are not measured here.
    methods = [name for name, method in METHODS.items() if not method.question_dependent]
    configs = {name: CompressionConfig(method=name, retention_ratio=retention_ratio) for name in methods}
    actions = {name: partial(compress, *clip, config) for name, config in configs.items()}
    kept: dict[MethodName, int] = {}
    operations: dict[MethodName, int] = {}
    runs: dict[str, int] = {}
    for name, action in actions.items():
        with CountOperations() as counted:
            kept[name] = len(action().indices)
        operations[name] = counted.count
        runs[name] = runs_to_fill(SHORTEST_SECONDS, action)

    def timed(name: MethodName) -> dict[str, float]:
        return {ALL: cpu_seconds(actions[name])}

    arms = {str(name): partial(timed, name) for name in methods}
    turns = take_turns(arms, twice=[_CONTROL], patience=patience, runs=runs)
    control = turns.controls[_CONTROL]
    return [
        RivalMeasurement(name, retention_ratio, kept[name], turns.least[name][ALL], operations[name], control)
        for name in methods
    ]


def rivals_table(measurements: list[RivalMeasurement], shape: tuple[int, int, int]) -> str:
    """The table for the documentation."""
    lines = [f"Methods on {' x '.join(map(str, shape))}:", ""]
    lines += ["| method | retention | tokens | CPU s | operations | control |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {m.method} | {m.retention_ratio:.2f} | {m.kept} | {m.seconds:.3f} | {m.operations} | {m.control:.1%} |"
        for m in measurements
    ]
    return "\n".join(lines) + "\n" + unsettled(*(m.control for m in measurements))
