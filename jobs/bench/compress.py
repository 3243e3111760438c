"""`flashvid bench compress`: how fast `compress` is, and whether it keeps within its limits.

One process and one thread, in CPU time, because other work on the machine changes wall time. All settings of a clip run
in the same turns, and the least of several turns counts. The bare matrix products run twice a turn under two names;
turns go on until these two (the A/A control) agree within 5 %, or the time is over.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashvid import CompressionConfig, CompressionResult, compress
from jobs.bench.cost import (
    SHORTEST_SECONDS,
    CountOperations,
    cpu_seconds,
    drifting_clip,
    peak_extra_bytes,
    runs_to_fill,
    single_thread,
)
from jobs.bench.reports import describe_environment, publish
from jobs.bench.turns import ALL, CONTROL, Patience, take_turns

SHAPES = ((32, 196, 3584), (64, 169, 3584), (128, 196, 3584), (384, 196, 3584))
QUICK_SHAPES = ((8, 49, 256), (16, 49, 256))
RETENTIONS = (0.10, 0.25)
# The default; as published; and as the preset of inner pruning sets it.
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"reference_compatible": True},
    {"token_selection_method": "attn_div_v2", "expansion": 1.25},
)
# Calls on a long clip take seconds, within which disturbances even out.
_PATIENCE, _LONG_PATIENCE, _LONG_FRAMES = Patience(5, 20, seconds=60), Patience(3, 20, seconds=75), 384
QUICK_PATIENCE = Patience(2, 4, seconds=5)
_PRODUCTS = "products"
# Limits: multiples of the bare products' time, by the number of frames; operations, their growth with frames; memory.
_TIMES_PRODUCTS, _TIMES_PRODUCTS_OF_32_FRAMES = 2.0, 1.8
_MOST_OPERATIONS, _MOST_GROWTH = 400, 1.5
_MOST_MEMORY = 1.5

# Measures more of the same for our own claims, into a folder, quickly or not; returns text and what is over a limit.
Study = Callable[[Path | None, bool], tuple[str, list[str]]]


@dataclass(frozen=True)
class Measurement:
    """One line of the table; times are CPU seconds, memory is a share of the input."""

    frames: int
    tokens: int
    width: int
    retention_ratio: float
    expansion: float
    token_selection_method: str
    reference_compatible: bool
    kept: int
    seconds: float
    products_seconds: float
    times_products: float
    control: float
    turns: int
    operations: int
    peak_extra_memory: float

    @property
    def arm(self) -> str:
        """Its settings, for a table."""
        mode = ", reference mode" if self.reference_compatible else ""
        return f"{self.token_selection_method} x {self.expansion:g}{mode}"

    def missed(self) -> list[str]:
        """Return what is over its limit, in words; times and memory are compared on full-size clips only."""
        timed = (self.frames, self.tokens, self.width) in SHAPES
        limit = _TIMES_PRODUCTS_OF_32_FRAMES if self.frames <= 32 else _TIMES_PRODUCTS
        checks = {
            f"the A/A control is {self.control:.1%}": timed and not self.control <= CONTROL,
            f"{self.times_products:.2f} times the bare products, limit {limit}": timed
            and not self.times_products <= limit,
            f"{self.operations} operations, limit {_MOST_OPERATIONS}": self.operations > _MOST_OPERATIONS,
            f"{self.peak_extra_memory:.2f} of the input in memory, limit {_MOST_MEMORY}": timed
            and self.peak_extra_memory > _MOST_MEMORY,
        }
        where = f"{self.frames} x {self.tokens} x {self.width} at {self.retention_ratio:.2f}, {self.arm}"
        return [f"{where}: {problem}" for problem, found in checks.items() if found]


def bare_products(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the products that FlashVID needs in any case: within each frame, and of each frame with the next."""
    within = torch.bmm(features, features.transpose(1, 2))
    return within, torch.bmm(features[1:], features[:-1].transpose(1, 2))


def measure(shape: tuple[int, int, int], configs: Sequence[CompressionConfig], patience: Patience) -> list[Measurement]:
    """Measure one clip under several settings, in the same turns."""
    features, scores = drifting_clip(*shape)
    actions: dict[str, Callable[[], Any]] = {_PRODUCTS: partial(bare_products, features)}
    actions |= {str(number): partial(compress, features, scores, config) for number, config in enumerate(configs)}

    def timed(action: Callable[[], object]) -> dict[str, float]:
        return {ALL: cpu_seconds(action)}

    turns = take_turns(
        {name: partial(timed, action) for name, action in actions.items()},
        twice=[_PRODUCTS],
        patience=patience,
        # Short calls run several times a turn.
        runs=dict.fromkeys(actions, runs_to_fill(SHORTEST_SECONDS, actions[_PRODUCTS])),
    )
    bare = turns.least[_PRODUCTS][ALL]
    measurements = []
    for name, config in zip([*actions][1:], configs, strict=True):
        found: list[CompressionResult] = []
        with CountOperations() as operations:
            peak = peak_extra_bytes(lambda: found.append(actions[name]()))  # noqa: B023 - called at once
        seconds = turns.least[name][ALL]
        measurements.append(
            Measurement(
                *shape,
                config.retention_ratio,
                config.expansion,
                config.token_selection_method,
                config.reference_compatible,
                len(found[0].indices),
                seconds,
                bare,
                seconds / bare,
                turns.controls[_PRODUCTS],
                turns.number[name],
                operations.count,
                peak / (4 * features.numel()),
            )
        )
    return measurements


def missed_limits(measurements: Sequence[Measurement]) -> list[str]:
    """Return everything over its limit, in words."""
    found = [problem for m in measurements for problem in m.missed()]
    counts: dict[tuple[int, float, str], dict[int, int]] = defaultdict(dict)
    for m in measurements:
        counts[m.tokens, m.retention_ratio, m.arm][m.frames] = m.operations
    for (_, retention_ratio, arm), by_frames in counts.items():
        fewest, most = by_frames[min(by_frames)], by_frames[max(by_frames)]
        if most > _MOST_GROWTH * fewest:
            found.append(f"{arm} at {retention_ratio:.2f}: operations grow with the frames, {fewest} to {most}")
    return found


def bench_compress(output: Path | None = None, *, quick: bool = False, study: Study | None = None) -> list[str]:
    """Measure, print a table, and write `compress.csv`, `compress.md` and `compress.png`.

    Args:
        output: A folder, created if it is missing; None writes nothing.
        quick: Small clips, to see that the measurement works; its times mean nothing.
        study: What else to measure.

    Returns:
        What is over its limit, in words.
    """
    configs = [CompressionConfig(retention_ratio=ratio, **more) for ratio in RETENTIONS for more in SETTINGS]
    measurements = []
    with single_thread():
        for shape in QUICK_SHAPES if quick else SHAPES:
            patience = _LONG_PATIENCE if shape[0] >= _LONG_FRAMES else _PATIENCE
            measurements += measure(shape, configs, QUICK_PATIENCE if quick else patience)
            print(f"measured {' x '.join(map(str, shape))}", flush=True)
        text, missed = study(output, quick) if study else ("", [])
    missed = [*missed_limits(measurements), *missed]
    what = "Everything but times, which clips of this size do not show," if quick else "Everything"
    verdict = "".join(f"- {problem}\n" for problem in missed) or f"{what} is within its limits.\n"
    largest = [one for one in measurements if one.frames == max(m.frames for m in measurements)]
    times = {f"{one.frames} frames at {one.retention_ratio:.2f}, {one.arm}": one.times_products for one in largest}
    publish(
        output,
        "compress",
        "\n".join([describe_environment() + "\n", _table(measurements), text, verdict]),
        [asdict(one) for one in measurements],
        times,
        "CPU time as a multiple of the bare products'",
    )
    return missed


def _table(measurements: Sequence[Measurement]) -> str:
    titles = ("clip", "retention", "settings", "CPU s", "x bare products", "control", "operations", "extra memory")
    rows = "".join(
        f"| {m.frames} x {m.tokens} x {m.width} | {m.retention_ratio:.2f} | {m.arm} | {m.seconds:.3f} "
        f"| {m.times_products:.2f} | {m.control:.1%} | {m.operations} | {m.peak_extra_memory:.2f} |\n"
        for m in measurements
    )
    return f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|\n{rows}"
