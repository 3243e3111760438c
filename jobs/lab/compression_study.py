"""What `flashvid bench compress` adds for our own claims.

Operations, memory, the other methods, and the naive implementation.
"""

import runpy
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashvid import CompressionConfig, compress
from jobs.bench.compress import CONFIGS, QUICK_PATIENCE, QUICK_SHAPES, SHAPES, Measurement, settings_of
from jobs.bench.cost import cpu_seconds, drifting_clip
from jobs.bench.reports import markdown_table, write_rows
from jobs.bench.turns import CONTROL
from jobs.lab.operations import CountOperations, peak_extra_bytes
from jobs.lab.rival_costs import PATIENCE, RivalMeasurement, measure_rivals, rivals_table

_RETENTIONS, _RIVAL_RETENTIONS = (0.10, 0.25), (0.25, 0.5)
# The naive implementation loops over tokens: it is compared where that takes seconds.
_NAIVE_SHAPES = ((4, 36, 64), (32, 196, 3584))
# Limits of times as multiples of the bare products' time, for at most 32 frames and for more.
_TIMES_PRODUCTS_OF_32_FRAMES, _TIMES_PRODUCTS = 1.8, 2.0
# The largest share of the naive implementation's time that ours may take.
TIMES_NAIVE = 0.75
# Limits of operations, of their growth with the frames, and of memory as a share of the input.
_MOST_OPERATIONS, _MOST_GROWTH, _MOST_MEMORY = 400, 1.5, 1.5


@dataclass(frozen=True)
class CountedWork:
    """Work of one clip under one setting; memory is a share of the input."""

    frames: int
    tokens: int
    width: int
    retention_ratio: float
    settings: str
    kept: int
    operations: int
    peak_extra_memory: float


@dataclass(frozen=True)
class NaiveComparison:
    """One clip, compressed by the naive implementation and by ours.

    Attributes:
        clip: Its size.
        retention_ratio: Of the settings.
        seconds: CPU time of ours, one run.
        naive_seconds: CPU time of the naive implementation, one run.
        differing: Indices that only the naive implementation keeps.
    """

    clip: str
    retention_ratio: float
    seconds: float
    naive_seconds: float
    differing: int

    def missed(self) -> list[str]:
        """Return what is over its limit, in words."""
        where, found = f"{self.clip} at {self.retention_ratio:.2f}", []
        if self.seconds > TIMES_NAIVE * self.naive_seconds:
            share = self.seconds / self.naive_seconds
            found.append(f"{where}: {share:.2f} of the naive implementation, limit {TIMES_NAIVE}")
        if self.differing:
            found.append(f"{where}: {self.differing} indices are not those of the naive implementation")
        return found


def naive() -> Callable[[Any, Any, CompressionConfig], Any] | None:
    """Return the naive implementation of tests/oracles, or None without it."""
    # By its path: the checkout is not among the folders that the command `flashvid` imports from.
    path = Path(__file__).resolve().parents[2] / "tests" / "oracles" / "naive_compression.py"
    return runpy.run_path(str(path))["naive_compress"] if path.is_file() else None


def compare_with_naive(shape: tuple[int, int, int]) -> list[NaiveComparison]:
    """Compress one clip both ways under every setting that the naive implementation has; none without it."""
    features, scores = drifting_clip(*shape)
    if (in_python := naive()) is None:
        return []
    found = []
    # The naive implementation refuses the reference's mode, which leaves some decisions to rounding.
    for config in (config for config in CONFIGS if not config.reference_compatible):
        begun = time.process_time()
        slots, _ = in_python(features.numpy(), scores.numpy(), config)
        naive_seconds = time.process_time() - begun
        kept = {*compress(features, scores, config).indices.tolist()}
        ours = min(cpu_seconds(lambda: compress(features, scores, config)) for _ in range(3))  # noqa: B023
        row = (config.retention_ratio, ours, naive_seconds, len({slot.index for slot in slots} - kept))
        found.append(NaiveComparison(" x ".join(map(str, shape)), *row))
    return found


def count_work(shapes: Iterable[tuple[int, int, int]]) -> list[CountedWork]:
    """Count operations and memory of clips under every setting of the benchmark."""
    found = []
    for frames, tokens, width in shapes:
        features, scores = drifting_clip(frames, tokens, width)
        for config in CONFIGS:
            kept: list[int] = []
            with CountOperations() as operations:
                peak = peak_extra_bytes(
                    lambda: kept.append(len(compress(features, scores, config).indices))  # noqa: B023 - called at once
                )
            row = (config.retention_ratio, settings_of(config), kept[0], operations.count)
            found.append(CountedWork(frames, tokens, width, *row, peak / (4 * features.numel())))
    return found


def missed_work(counted: Sequence[CountedWork]) -> list[str]:
    """Return what is over its limit, in words; memory is compared on full-size clips only."""
    found = []
    counts: dict[tuple[int, float, str], dict[int, int]] = defaultdict(dict)
    for one in counted:
        where = f"{one.frames} x {one.tokens} x {one.width} at {one.retention_ratio:.2f}, {one.settings}"
        counts[one.tokens, one.retention_ratio, one.settings][one.frames] = one.operations
        if one.operations > _MOST_OPERATIONS:
            found.append(f"{where}: {one.operations} operations, limit {_MOST_OPERATIONS}")
        if (one.frames, one.tokens, one.width) in SHAPES and one.peak_extra_memory > _MOST_MEMORY:
            found.append(f"{where}: {one.peak_extra_memory:.2f} of the input in memory, limit {_MOST_MEMORY}")
    for (_, ratio, settings), by_frames in counts.items():
        fewest, most = by_frames[min(by_frames)], by_frames[max(by_frames)]
        if most > _MOST_GROWTH * fewest:
            found.append(f"{settings} at {ratio:.2f}: operations grow with the frames, {fewest} to {most}")
    return found


def missed_times(measured: Iterable[Measurement]) -> list[str]:
    """Return which times are over their limit, in words; only full-size clips have limits."""
    found = []
    for one in measured:
        if (one.frames, one.tokens, one.width) in SHAPES:
            limit = _TIMES_PRODUCTS_OF_32_FRAMES if one.frames <= 32 else _TIMES_PRODUCTS
            where = f"{one.clip} at {one.retention_ratio:.2f}, {one.settings}"
            if not one.control <= CONTROL:
                found.append(f"{where}: the A/A control is {one.control:.1%}")
            if not one.times_products <= limit:
                found.append(f"{where}: {one.times_products:.2f} times the bare products, limit {limit}")
    return found


def compression_study(output: Path | None, quick: bool, measured: Sequence[Measurement]) -> tuple[str, list[str]]:
    """Measure; return tables and what is over its limit, the times measured before included.

    Writes `compress_NAME.csv` for each table.
    """
    shapes = QUICK_SHAPES if quick else SHAPES
    clip, patience = drifting_clip(*shapes[0]), QUICK_PATIENCE if quick else PATIENCE
    counted = count_work(shapes)
    rivals = [m for ratio in _RIVAL_RETENTIONS for m in measure_rivals(clip, ratio, patience)]
    compared = [one for shape in _NAIVE_SHAPES[: 1 if quick else 2] for one in compare_with_naive(shape)]
    if output is not None:
        tables: dict[str, Sequence[CountedWork | RivalMeasurement | NaiveComparison]]
        tables = {"work": counted, "methods": rivals, "naive": compared}
        for name, rows in tables.items():
            if rows:
                write_rows(output / f"compress_{name}.csv", [asdict(row) for row in rows])
    missed = missed_times(measured) + missed_work(counted) + [problem for one in compared for problem in one.missed()]
    what = "Everything but times, which clips of this size do not show," if quick else "Everything"
    verdict = "".join(f"- {problem}\n" for problem in missed) or f"{what} is within its limits.\n"
    return "\n".join((work_table(counted), rivals_table(rivals, shapes[0]), naive_table(compared), verdict)), missed


def work_table(counted: Sequence[CountedWork]) -> str:
    """Return a Markdown table; memory is a share of the input."""
    rows = (
        f"{one.frames} x {one.tokens} x {one.width} | {one.retention_ratio:.2f} | {one.settings} | {one.kept} "
        f"| {one.operations} | {one.peak_extra_memory:.2f}"
        for one in counted
    )
    return markdown_table("clip | retention | settings | tokens | operations | extra memory", rows)


def naive_table(compared: Sequence[NaiveComparison]) -> str:
    """Return a Markdown table, or a sentence without the naive implementation."""
    if not compared:
        return "Not compared with the naive implementation, which is missing here.\n"
    rows = (
        f"{one.clip} | {one.retention_ratio:.2f} | {one.seconds:.3f} | {one.naive_seconds:.2f} | {one.differing}"
        for one in compared
    )
    return markdown_table("clip | retention | CPU s | naive CPU s | differing", rows)
