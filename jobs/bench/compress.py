"""How fast `compress` is: `python -m jobs.bench.compress [--quick] [--output DIR]`.

One process and one thread, in CPU time, since other work on the machine changes wall-clock time. What is compared runs
in turns; each figure is the least of five. The bare matrix products are measured twice under two names, and a round is
repeated until these two (the A/A control) agree within 5 %. The other methods of the registry follow, and what one and
two threads make of the same clips.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashvid import CompressionConfig, compress
from jobs.bench.cost import CountOperations, drifting_clip, least_of_turns, peak_extra_bytes
from jobs.bench.rivals import RivalMeasurement, measure_rivals, rivals_table
from jobs.bench.thread_counts import ThreadDifferences, compare_thread_counts, threads_table

SHAPES = ((32, 196, 3584), (64, 169, 3584), (128, 196, 3584), (384, 196, 3584))
RETENTIONS = (0.10, 0.25)
QUICK_SHAPES = ((8, 49, 256), (16, 49, 256))
# The naive implementation is loops over tokens: it is compared where these end within seconds.
NAIVE_SHAPES = ((4, 36, 64), (32, 196, 3584))
THREADS_SHAPE, QUICK_THREADS_SHAPE = (32, 196, 1024), (4, 36, 64)
SEEDS = 5
REPEATS = 5
CONTROL = 0.05
MOST_ROUNDS = 10


@dataclass(frozen=True)
class Measurement:
    """One line of the table; times are CPU seconds, memory is a share of the input."""

    frames: int
    tokens: int
    width: int
    retention_ratio: float
    reference_compatible: bool
    kept: int
    seconds: float
    products_seconds: float
    times_products: float
    naive_seconds: float
    naive_differing: int
    """Indices that the naive implementation keeps and ours does not, or -1 where it did not run."""
    control: float
    rounds: int
    operations: int
    peak_extra_memory: float


def bare_products(features: Tensor) -> tuple[Tensor, Tensor]:
    """The products FlashVID cannot do without: within each frame, and of each frame with the next."""
    within = torch.bmm(features, features.transpose(1, 2))
    return within, torch.bmm(features[1:], features[:-1].transpose(1, 2))


def naive() -> Callable[[Any, Any, CompressionConfig], Any] | None:
    """The naive implementation, which a checkout of the repository has and an installation has not."""
    if not (Path(__file__).resolve().parents[2] / "tests" / "naive_compression.py").is_file():
        return None
    from tests.naive_compression import naive_compress

    return naive_compress


def measure(shape: tuple[int, int, int], config: CompressionConfig) -> Measurement:
    """One clip under one setting."""
    features, scores = drifting_clip(*shape)

    def ours() -> object:
        return compress(features, scores, config)

    def products() -> object:
        return bare_products(features)

    best, control, rounds = [math.inf] * 3, math.inf, 0
    while control > CONTROL and rounds < MOST_ROUNDS:
        best = least_of_turns([products, ours, products], REPEATS)
        control, rounds = abs(best[0] / best[2] - 1), rounds + 1
    with CountOperations() as operations:
        kept = compress(features, scores, config).indices.tolist()
    # The reference's mode leaves some decisions to rounding: the naive implementation refuses those.
    in_python = None if config.reference_compatible or shape not in NAIVE_SHAPES else naive()
    naive_seconds, naive_differing = math.nan, -1
    if in_python is not None:
        start = time.process_time()
        slots, _ = in_python(features.numpy(), scores.numpy(), config)
        naive_seconds = time.process_time() - start
        naive_differing = len({slot.index for slot in slots} - {*kept})
    bare = min(best[0], best[2])
    return Measurement(
        *shape,
        config.retention_ratio,
        config.reference_compatible,
        len(kept),
        best[1],
        bare,
        best[1] / bare,
        naive_seconds,
        naive_differing,
        control,
        rounds,
        operations.count,
        peak_extra_bytes(ours) / (4 * features.numel()),
    )


def markdown_table(measurements: list[Measurement]) -> str:
    """The table for the documentation."""
    titles = ["clip", "retention", "reference mode", "CPU s", "x bare products", "x naive", "differing"]
    titles += ["control", "operations", "extra memory"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for m in measurements:
        compared = not math.isnan(m.naive_seconds)
        share = f"{m.seconds / m.naive_seconds:.4f} | {m.naive_differing}" if compared else " | "
        lines.append(
            f"| {m.frames} x {m.tokens} x {m.width} | {m.retention_ratio:.2f} | {m.reference_compatible} | "
            f"{m.seconds:.3f} | {m.times_products:.2f} | {share} | {m.control:.1%} | {m.operations} | "
            f"{m.peak_extra_memory:.2f} |"
        )
    return "\n".join(lines) + "\n"


def bench_compress(output: Path | None = None, *, quick: bool = False) -> list[Measurement]:
    """Measure, print a line each, and write `compress.csv`, `compress.md` and the other methods' to `output`.

    Args:
        output: A folder, made if need be; None writes nothing.
        quick: Small clips, to see that the measurement works; its figures mean nothing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measurements = []
        print("\n".join(markdown_table([]).splitlines()))
        for shape in (NAIVE_SHAPES[0], *(QUICK_SHAPES if quick else SHAPES)):
            for retention_ratio in RETENTIONS:
                for reference_compatible in (False, True):
                    config = CompressionConfig(
                        retention_ratio=retention_ratio, reference_compatible=reference_compatible
                    )
                    measurements.append(measure(shape, config))
                    print(markdown_table(measurements[-1:]).splitlines()[-1], flush=True)
        rivals_shape = (QUICK_SHAPES if quick else SHAPES)[0]
        rivals = [m for ratio in RETENTIONS for m in measure_rivals(drifting_clip(*rivals_shape), ratio)]
        threads_shape = QUICK_THREADS_SHAPE if quick else THREADS_SHAPE
        differences = [compare_thread_counts(threads_shape, ratio, SEEDS) for ratio in RETENTIONS]
    finally:
        torch.set_num_threads(threads)
    more = rivals_table(rivals, rivals_shape), threads_table(differences, threads_shape)
    print("", *more, sep="\n")
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        write_table(output / "compress.csv", measurements)
        write_table(output / "compress_methods.csv", rivals)
        write_table(output / "compress_threads.csv", differences)
        (output / "compress.md").write_text("\n".join([markdown_table(measurements), *more]), encoding="utf-8")
    return measurements


def write_table(path: Path, rows: Sequence[Measurement | RivalMeasurement | ThreadDifferences]) -> None:
    """Rows of one kind, at least one, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def main(arguments: list[str]) -> int:
    """The command; exits with 1 if a control did not come within 5 %."""
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.compress", description="Measure flashvid.compress.")
    parser.add_argument("--quick", action="store_true", help="small clips, only to see that it works")
    parser.add_argument("--output", type=Path, help="folder for compress*.csv and compress.md")
    options = parser.parse_args(arguments)
    measurements = bench_compress(options.output, quick=options.quick)
    return int(any(measurement.control > CONTROL for measurement in measurements))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
