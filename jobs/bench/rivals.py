"""What every compression method of the registry costs, at the same number of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flashvid import CompressionConfig, compress
from flashvid.config import MethodName
from flashvid.methods import METHODS
from jobs.bench.cost import Clip, CountOperations, least_of_turns

REPEATS = 3


@dataclass(frozen=True)
class RivalMeasurement:
    """One method on one clip; time is CPU seconds."""

    method: MethodName
    retention_ratio: float
    kept: int
    """Tokens: whole frames and whole grids are rounded up, all others keep the budget."""
    seconds: float
    operations: int


def measure_rivals(clip: Clip, retention_ratio: float) -> list[RivalMeasurement]:
    """All methods in turns on one clip of features `[T, N, D]` and scores `[T, N]`."""
    # What goes on in the decoder is not measured here.
    methods = [name for name, method in METHODS.items() if not method.question_dependent]
    configs = [CompressionConfig(method=method, retention_ratio=retention_ratio) for method in methods]
    seconds = least_of_turns([partial(compress, *clip, config) for config in configs], REPEATS)
    measurements = []
    for config, least in zip(configs, seconds, strict=True):
        with CountOperations() as operations:
            kept = len(compress(*clip, config).indices)
        measurements.append(RivalMeasurement(config.method, retention_ratio, kept, least, operations.count))
    return measurements


def rivals_table(measurements: list[RivalMeasurement], shape: tuple[int, int, int]) -> str:
    """The table for the documentation."""
    lines = [f"Methods on {' x '.join(map(str, shape))}:", ""]
    lines += ["| method | retention | tokens | CPU s | operations |", "|---|---|---|---|---|"]
    lines += [
        f"| {m.method} | {m.retention_ratio:.2f} | {m.kept} | {m.seconds:.3f} | {m.operations} |" for m in measurements
    ]
    return "\n".join(lines) + "\n"
