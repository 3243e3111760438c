"""What `flashvid bench compress` adds for our own claims: rivals, numbers of threads, and the naive implementation."""

from __future__ import annotations

import runpy
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashvid import CompressionConfig, compress
from jobs.bench.compress import QUICK_PATIENCE, QUICK_SHAPES, RETENTIONS, SHAPES
from jobs.bench.cost import cpu_seconds, drifting_clip
from jobs.bench.reports import write_rows
from jobs.lab.rival_costs import PATIENCE, RivalMeasurement, measure_rivals, rivals_table
from jobs.lab.thread_counts import ThreadDifferences, compare_thread_counts, threads_table

_RIVAL_RETENTIONS = (0.25, 0.5)
# The naive implementation loops over tokens: it is compared where that takes seconds.
_NAIVE_SHAPES = ((4, 36, 64), (32, 196, 3584))
_THREADS_SHAPE, _QUICK_THREADS_SHAPE, _SEEDS = (32, 196, 1024), (4, 36, 64), 5
# The largest share of the naive implementation's time that ours may take.
TIMES_NAIVE = 0.75
_NAIVE_SETTINGS: tuple[dict[str, Any], ...] = ({}, {"token_selection_method": "attn_div_v2", "expansion": 1.25})


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
    for ratio in RETENTIONS:
        for more in _NAIVE_SETTINGS:
            config = CompressionConfig(retention_ratio=ratio, **more)
            begun = time.process_time()
            slots, _ = in_python(features.numpy(), scores.numpy(), config)
            naive_seconds = time.process_time() - begun
            kept = {*compress(features, scores, config).indices.tolist()}
            ours = min(cpu_seconds(lambda: compress(features, scores, config)) for _ in range(3))  # noqa: B023
            differing = len({slot.index for slot in slots} - kept)
            found.append(NaiveComparison(" x ".join(map(str, shape)), ratio, ours, naive_seconds, differing))
    return found


def compression_study(output: Path | None, quick: bool) -> tuple[str, list[str]]:
    """Measure; return tables and what is over its limit. Writes `compress_NAME.csv` for each table."""
    shape = (QUICK_SHAPES if quick else SHAPES)[0]
    clip = drifting_clip(*shape)
    rivals = [
        m for ratio in _RIVAL_RETENTIONS for m in measure_rivals(clip, ratio, QUICK_PATIENCE if quick else PATIENCE)
    ]
    threads_shape = _QUICK_THREADS_SHAPE if quick else _THREADS_SHAPE
    threads = [compare_thread_counts(threads_shape, ratio, _SEEDS) for ratio in RETENTIONS]
    compared = [one for naive_shape in _NAIVE_SHAPES[: 1 if quick else 2] for one in compare_with_naive(naive_shape)]
    if output is not None:
        tables: dict[str, Sequence[RivalMeasurement | ThreadDifferences | NaiveComparison]]
        tables = {"methods": rivals, "threads": threads, "naive": compared}
        for name, rows in tables.items():
            if rows:
                write_rows(output / f"compress_{name}.csv", [asdict(row) for row in rows])
    missed = [problem for one in compared for problem in one.missed()]
    missed += [f"threads at {d.retention_ratio:.2f}: parted at {d.largest_gap:.1e}" for d in threads if not d.only_ties]
    return "\n".join(
        (rivals_table(rivals, shape), threads_table(threads, threads_shape), naive_table(compared))
    ), missed


def naive_table(compared: list[NaiveComparison]) -> str:
    """Return a Markdown table, or a sentence without the naive implementation."""
    if not compared:
        return "Not compared with the naive implementation, which only a checkout has.\n"
    rows = "".join(
        f"| {one.clip} | {one.retention_ratio:.2f} | {one.seconds:.3f} | {one.naive_seconds:.2f} | {one.differing} |\n"
        for one in compared
    )
    return f"| clip | retention | CPU s | naive CPU s | differing |\n|---|---|---|---|---|\n{rows}"
