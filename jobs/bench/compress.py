"""How fast `compress` is, and whether that is within its limits: `flashvid bench compress`.

One process and one thread, in CPU time, since other work on the machine changes wall-clock time. All settings of a clip
run in the same turns; each figure is the least of several. The bare matrix products run twice a turn under two names,
and turns go on until these two (the A/A control) agree within 5 %, or time is over. The other methods of the registry
follow, at retentions at which whole frames and whole grids come out at the same number of tokens, and what one and two
threads make of the same clips.
"""

from __future__ import annotations

import math
import runpy
import time
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
from jobs.bench.environment import describe_environment
from jobs.bench.plots import plot_bars
from jobs.bench.reports import can_plot, write_report, write_rows
from jobs.bench.rivals import PATIENCE as RIVALS_PATIENCE
from jobs.bench.rivals import measure_rivals, rivals_table
from jobs.bench.turns import ALL, CONTROL, Patience, take_turns
from jobs.lab.thread_counts import ThreadDifferences, compare_thread_counts, threads_table

SHAPES = ((32, 196, 3584), (64, 169, 3584), (128, 196, 3584), (384, 196, 3584))
RETENTIONS = (0.10, 0.25)
# The default; as published, by default and with what the preset of inner pruning asks for.
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"reference_compatible": True},
    {"token_selection_method": "attn_div_v2", "expansion": 1.25},
)
RIVAL_RETENTIONS = (0.25, 0.5)
QUICK_SHAPES = ((8, 49, 256), (16, 49, 256))
# The naive implementation is loops over tokens: it is compared where these end within seconds.
NAIVE_SHAPES = ((4, 36, 64), (32, 196, 3584))
THREADS_SHAPE, QUICK_THREADS_SHAPE = (32, 196, 1024), (4, 36, 64)
SEEDS = 5
# A long clip's calls take seconds, in which what disturbs evens out.
PATIENCE, LONG_PATIENCE, LONG_FRAMES = Patience(5, 20, seconds=60), Patience(3, 20, seconds=75), 384
QUICK_PATIENCE = Patience(2, 4, seconds=5)
_PRODUCTS = "products"
# Of the bare products, by the number of frames; of the naive implementation's time; and what else is promised.
TIMES_PRODUCTS, TIMES_PRODUCTS_OF_32_FRAMES = 2.0, 1.8
TIMES_NAIVE = 0.75
MOST_OPERATIONS, MOST_GROWTH = 400, 1.5
MOST_MEMORY = 1.5


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
    naive_seconds: float
    naive_differing: int
    """Indices that the naive implementation keeps and ours does not, or -1 where it did not run."""
    control: float
    turns: int
    operations: int
    peak_extra_memory: float

    @property
    def clip(self) -> str:
        """Its size."""
        return f"{self.frames} x {self.tokens} x {self.width}"

    @property
    def arm(self) -> str:
        """Its settings."""
        mode = ", reference mode" if self.reference_compatible else ""
        return f"{self.token_selection_method} x {self.expansion:g}{mode}"

    def missed(self) -> list[str]:
        """What is beyond its limit, in words; of the bare products only where the clip is large enough to tell."""
        timed = (self.frames, self.tokens, self.width) in SHAPES
        limit = TIMES_PRODUCTS_OF_32_FRAMES if self.frames <= 32 else TIMES_PRODUCTS
        found = []
        if timed and not self.control <= CONTROL:
            found.append(f"the A/A control is {self.control:.1%}")
        if timed and not self.times_products <= limit:
            found.append(f"{self.times_products:.2f} times the bare products, not {limit}")
        if self.seconds > TIMES_NAIVE * self.naive_seconds:
            found.append(f"{self.seconds / self.naive_seconds:.2f} of the naive implementation, not {TIMES_NAIVE}")
        if self.naive_differing > 0:
            found.append(f"{self.naive_differing} indices are not those of the naive implementation")
        if self.operations > MOST_OPERATIONS:
            found.append(f"{self.operations} operations, not {MOST_OPERATIONS}")
        if timed and self.peak_extra_memory > MOST_MEMORY:
            found.append(f"{self.peak_extra_memory:.2f} of the input in memory, not {MOST_MEMORY}")
        return [f"{self.clip} at {self.retention_ratio:.2f}, {self.arm}: {what}" for what in found]


def bare_products(features: Tensor) -> tuple[Tensor, Tensor]:
    """The products FlashVID cannot do without: within each frame, and of each frame with the next."""
    within = torch.bmm(features, features.transpose(1, 2))
    return within, torch.bmm(features[1:], features[:-1].transpose(1, 2))


def naive() -> Callable[[Any, Any, CompressionConfig], Any] | None:
    """The naive implementation, which a checkout of the repository has and an installation has not."""
    # By its path: the checkout is not among the folders that the command `flashvid` imports from.
    path = Path(__file__).resolve().parents[2] / "tests" / "naive_compression.py"
    if not path.is_file():
        return None
    found: Callable[[Any, Any, CompressionConfig], Any] = runpy.run_path(str(path))["naive_compress"]
    return found


def measure(shape: tuple[int, int, int], configs: Sequence[CompressionConfig], patience: Patience) -> list[Measurement]:
    """One clip under several settings, in the same turns."""
    features, scores = drifting_clip(*shape)
    # Short calls run several times a turn.
    runs = runs_to_fill(SHORTEST_SECONDS, partial(bare_products, features))

    def timed(action: Callable[[], object]) -> dict[str, float]:
        return {ALL: cpu_seconds(action)}

    ours = {str(number): partial(compress, features, scores, config) for number, config in enumerate(configs)}
    actions: dict[str, Callable[[], object]] = {_PRODUCTS: partial(bare_products, features), **ours}
    turns = take_turns(
        {name: partial(timed, action) for name, action in actions.items()},
        twice=[_PRODUCTS],
        patience=patience,
        runs=dict.fromkeys(actions, runs),
    )
    bare = turns.least[_PRODUCTS][ALL]
    measurements = []
    for name, config in zip(ours, configs, strict=True):
        found: list[CompressionResult] = []
        with CountOperations() as operations:
            peak = peak_extra_bytes(lambda: found.append(ours[name]()))  # noqa: B023 - called at once
        kept = found[0].indices.tolist()
        # The reference's mode leaves some decisions to rounding: the naive implementation refuses those.
        in_python = None if config.reference_compatible or shape not in NAIVE_SHAPES else naive()
        naive_seconds, naive_differing = math.nan, -1
        if in_python is not None:
            start = time.process_time()
            slots, _ = in_python(features.numpy(), scores.numpy(), config)
            naive_seconds = time.process_time() - start
            naive_differing = len({slot.index for slot in slots} - {*kept})
        seconds = turns.least[name][ALL]
        measurements.append(
            Measurement(
                *shape,
                config.retention_ratio,
                config.expansion,
                config.token_selection_method,
                config.reference_compatible,
                len(kept),
                seconds,
                bare,
                seconds / bare,
                naive_seconds,
                naive_differing,
                turns.controls[_PRODUCTS],
                turns.number[name],
                operations.count,
                peak / (4 * features.numel()),
            )
        )
    return measurements


def markdown_table(measurements: list[Measurement]) -> str:
    """The table for the documentation."""
    titles = ["clip", "retention", "settings", "CPU s", "x bare products", "x naive", "differing"]
    titles += ["control", "operations", "extra memory"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for m in measurements:
        compared = not math.isnan(m.naive_seconds)
        share = f"{m.seconds / m.naive_seconds:.4f} | {m.naive_differing}" if compared else " | "
        lines.append(
            f"| {m.clip} | {m.retention_ratio:.2f} | {m.arm} | "
            f"{m.seconds:.3f} | {m.times_products:.2f} | {share} | {m.control:.1%} | {m.operations} | "
            f"{m.peak_extra_memory:.2f} |"
        )
    return "\n".join(lines) + "\n"


def missed_limits(measurements: Sequence[Measurement], differences: Sequence[ThreadDifferences]) -> list[str]:
    """Everything beyond its limit, in words."""
    found = [problem for m in measurements for problem in m.missed()]
    counts: dict[tuple[int, float, str], dict[int, int]] = defaultdict(dict)
    for m in measurements:
        counts[m.tokens, m.retention_ratio, m.arm][m.frames] = m.operations
    for (_, retention_ratio, arm), by_frames in counts.items():
        fewest, most = by_frames[min(by_frames)], by_frames[max(by_frames)]
        if most > MOST_GROWTH * fewest:
            found.append(f"{arm} at {retention_ratio:.2f}: operations grow with the frames, {fewest} to {most}")
    found += [
        f"threads at {d.retention_ratio:.2f}: parted at {d.largest_gap:.1e}" for d in differences if not d.only_ties
    ]
    return found


def bench_compress(output: Path | None = None, *, quick: bool = False) -> list[str]:
    """Measure, print a line each, and write `compress.csv`, `compress.md`, `compress.png` and the other methods'.

    Args:
        output: A folder, made if need be; None writes nothing.
        quick: Small clips, to see that the measurement works; its times mean nothing.

    Returns:
        What is beyond its limit, in words.
    """
    with single_thread():
        measurements = []
        configs = [CompressionConfig(retention_ratio=ratio, **more) for ratio in RETENTIONS for more in SETTINGS]
        print("\n".join(markdown_table([]).splitlines()))
        for shape in (NAIVE_SHAPES[0], *(QUICK_SHAPES if quick else SHAPES)):
            patience = LONG_PATIENCE if shape[0] >= LONG_FRAMES else PATIENCE
            found = measure(shape, configs, QUICK_PATIENCE if quick else patience)
            measurements += found
            print("\n".join(markdown_table(found).splitlines()[2:]), flush=True)
        rivals_shape = (QUICK_SHAPES if quick else SHAPES)[0]
        clip, few = drifting_clip(*rivals_shape), QUICK_PATIENCE if quick else RIVALS_PATIENCE
        rivals = [m for ratio in RIVAL_RETENTIONS for m in measure_rivals(clip, ratio, few)]
        threads_shape = QUICK_THREADS_SHAPE if quick else THREADS_SHAPE
        differences = [compare_thread_counts(threads_shape, ratio, SEEDS) for ratio in RETENTIONS]
    missed = missed_limits(measurements, differences)
    what = "Everything but times, which clips of this size do not tell," if quick else "Everything"
    verdict = "".join(f"- {problem}\n" for problem in missed) or f"{what} is within its limits.\n"
    if all(m.naive_differing < 0 for m in measurements):
        verdict += "Not compared with the naive implementation, which only a checkout has.\n"
    tables = rivals_table(rivals, rivals_shape), threads_table(differences, threads_shape), verdict
    print("", *tables, sep="\n")
    if output is not None:
        text = "\n".join([describe_environment() + "\n", markdown_table(measurements), *tables])
        write_report(output, "compress", text)
        write_rows(output / "compress.csv", [asdict(one) for one in measurements])
        write_rows(output / "compress_methods.csv", [asdict(one) for one in rivals])
        write_rows(output / "compress_threads.csv", [asdict(one) for one in differences])
        if can_plot():
            largest = [one for one in measurements if one.frames == max(m.frames for m in measurements)]
            times = {f"{one.clip} at {one.retention_ratio:.2f}, {one.arm}": one.times_products for one in largest}
            plot_bars(output / "compress.png", times, "CPU time as a multiple of the bare products'")
    return missed
