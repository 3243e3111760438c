"""How fast `compress` is: `python -m jobs.bench.compress [--quick] [--output DIR]`.

One process and one thread, in CPU time, since other work on the machine changes wall-clock time. What is compared runs
in turns; each figure is the least of five. The bare matrix products are measured twice under two names, and a round is
repeated until these two (the A/A control) agree within 5 %.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from flashvid import CompressionConfig, compress

SHAPES = ((32, 196, 3584), (64, 169, 3584), (128, 196, 3584), (384, 196, 3584))
RETENTIONS = (0.10, 0.25)
QUICK_SHAPES = ((8, 49, 256), (16, 49, 256))
# The naive implementation is plain Python over lists of floats: it is compared where that ends within seconds.
NAIVE_SHAPE = (4, 36, 64)
REPEATS = 5
CONTROL = 0.05
SHORTEST_SECONDS = 0.02
MOST_ROUNDS = 10
SCENE_FRAMES = 16

Clip = tuple[Tensor, Tensor]


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
    control: float
    rounds: int
    operations: int
    peak_extra_memory: float


class CountOperations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches PyTorch's dispatcher: on a GPU, about the number of launches."""

    count = 0

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        """Count and go on."""
        self.count += 1
        return func(*args, **(kwargs or {}))


def drifting_clip(num_frames: int, num_tokens: int, width: int) -> Clip:
    """Scenes of 16 frames in which tokens move a little: `[T, N, D]` features and `[T, N]` scores, float32."""
    generator = torch.Generator().manual_seed(0)
    features = torch.empty(num_frames, num_tokens, width)
    for first in range(0, num_frames, SCENE_FRAMES):
        scene = torch.randn(num_tokens, width, generator=generator) + torch.randn(width, generator=generator)
        part = features[first : first + SCENE_FRAMES]
        part.normal_(generator=generator).mul_(0.45).add_(scene)
    return features, torch.rand(num_frames, num_tokens, generator=generator).softmax(dim=-1)


def bare_products(features: Tensor) -> tuple[Tensor, Tensor]:
    """The products FlashVID cannot do without: within each frame, and of each frame with the next."""
    within = torch.bmm(features, features.transpose(1, 2))
    return within, torch.bmm(features[1:], features[:-1].transpose(1, 2))


def naive() -> Callable[[list[Any], list[Any], CompressionConfig], Any] | None:
    """The naive implementation, which a checkout of the repository has and an installation has not."""
    if not (Path(__file__).resolve().parents[2] / "tests" / "naive_compression.py").is_file():
        return None
    from tests.naive_compression import naive_compress

    return naive_compress


def cpu_seconds(action: Callable[[], object]) -> float:
    """CPU time of this process, system time included."""
    start = time.process_time()
    action()
    return time.process_time() - start


def least_of_turns(actions: list[Callable[[], object]]) -> list[float]:
    """The least CPU time of each action in five turns; short ones run several times a turn."""
    runs = math.ceil(SHORTEST_SECONDS / max(cpu_seconds(actions[0]), 1e-6))

    def one(action: Callable[[], object]) -> float:
        return cpu_seconds(lambda: [action() for _ in range(runs)]) / runs

    turns = [[one(action) for action in actions] for _ in range(REPEATS)]
    return [min(times) for times in zip(*turns, strict=True)]


def peak_extra_bytes(action: Callable[[], object]) -> int:
    """The most memory that tensors made by `action` take at one time, by the allocator's own record."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        action()
    held = peak = 0
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def measure(shape: tuple[int, int, int], config: CompressionConfig) -> Measurement:
    """One clip under one setting."""
    features, scores = drifting_clip(*shape)

    def ours() -> object:
        return compress(features, scores, config)

    def products() -> object:
        return bare_products(features)

    best, control, rounds = [math.inf] * 3, math.inf, 0
    while control > CONTROL and rounds < MOST_ROUNDS:
        best = least_of_turns([products, ours, products])
        control, rounds = abs(best[0] / best[2] - 1), rounds + 1
    with CountOperations() as operations:
        kept = len(compress(features, scores, config).indices)
    in_python = naive() if shape == NAIVE_SHAPE else None
    naive_seconds = math.nan
    if in_python is not None:
        lists = features.tolist(), scores.tolist()
        naive_seconds = cpu_seconds(lambda: in_python(*lists, config))
    bare = min(best[0], best[2])
    return Measurement(
        *shape,
        config.retention_ratio,
        config.reference_compatible,
        kept,
        best[1],
        bare,
        best[1] / bare,
        naive_seconds,
        control,
        rounds,
        operations.count,
        peak_extra_bytes(ours) / (4 * features.numel()),
    )


def markdown_table(measurements: list[Measurement]) -> str:
    """The table for the documentation."""
    titles = ["clip", "retention", "reference mode", "CPU s", "x bare products", "x naive"]
    titles += ["control", "operations", "extra memory"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for m in measurements:
        share = "" if math.isnan(m.naive_seconds) else f"{m.seconds / m.naive_seconds:.4f}"
        lines.append(
            f"| {m.frames} x {m.tokens} x {m.width} | {m.retention_ratio:.2f} | {m.reference_compatible} | "
            f"{m.seconds:.3f} | {m.times_products:.2f} | {share} | {m.control:.1%} | {m.operations} | "
            f"{m.peak_extra_memory:.2f} |"
        )
    return "\n".join(lines) + "\n"


def bench_compress(output: Path | None = None, *, quick: bool = False) -> list[Measurement]:
    """Measure, print a line each, and write `compress.csv` and `compress.md` to `output`.

    Args:
        output: A folder, made if need be; None writes nothing.
        quick: Small clips, to see that the measurement works; its figures mean nothing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        measurements = []
        for shape in (NAIVE_SHAPE, *(QUICK_SHAPES if quick else SHAPES)):
            for retention_ratio in RETENTIONS:
                for reference_compatible in (False, True):
                    config = CompressionConfig(
                        retention_ratio=retention_ratio, reference_compatible=reference_compatible
                    )
                    measurements.append(measure(shape, config))
                    print(markdown_table(measurements[-1:]).splitlines()[-1], flush=True)
    finally:
        torch.set_num_threads(threads)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        with (output / "compress.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Measurement)])
            writer.writeheader()
            writer.writerows(asdict(measurement) for measurement in measurements)
        (output / "compress.md").write_text(markdown_table(measurements), encoding="utf-8")
    return measurements


def main(arguments: list[str]) -> int:
    """The command; exits with 1 if a control did not come within 5 %."""
    parser = argparse.ArgumentParser(prog="python -m jobs.bench.compress", description="Measure flashvid.compress.")
    parser.add_argument("--quick", action="store_true", help="small clips, only to see that it works")
    parser.add_argument("--output", type=Path, help="folder for compress.csv and compress.md")
    options = parser.parse_args(arguments)
    measurements = bench_compress(options.output, quick=options.quick)
    return int(any(measurement.control > CONTROL for measurement in measurements))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
