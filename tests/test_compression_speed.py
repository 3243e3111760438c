"""What speed rests on and can be tested without a clock: operations and memory do not grow with the video."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashvid import CompressionConfig, compress
from jobs.bench.compress import CountOperations, bench_compress, drifting_clip, peak_extra_bytes

SETTINGS = [(r, compatible) for r in (0.1, 0.25) for compatible in (False, True)]


@pytest.mark.parametrize(("retention_ratio", "reference_compatible"), SETTINGS)
def test_operations_do_not_grow_with_the_video(retention_ratio: float, reference_compatible: bool) -> None:
    config = CompressionConfig(retention_ratio=retention_ratio, reference_compatible=reference_compatible)
    counts = []
    for num_frames in (32, 384):
        features, scores = drifting_clip(num_frames, 196, 64)
        with CountOperations() as operations:
            compress(features, scores, config)
        counts.append(operations.count)
    assert counts[1] <= 1.5 * counts[0]
    assert max(counts) <= 400


def test_memory_is_bounded_by_the_input() -> None:
    features, scores = drifting_clip(8, 49, 1024)
    extra = peak_extra_bytes(lambda: compress(features, scores, CompressionConfig()))
    assert extra <= 1.5 * 4 * features.numel()


@pytest.mark.slow
def test_the_measurement_runs(tmp_path: Path) -> None:
    measurements = bench_compress(tmp_path, quick=True)
    assert all(
        m.kept == CompressionConfig(retention_ratio=m.retention_ratio).clip_budget(m.frames, m.tokens)
        for m in measurements
        if not m.reference_compatible
    )
    assert (tmp_path / "compress.csv").read_text().count("\n") == len(measurements) + 1
    assert "bare products" in (tmp_path / "compress.md").read_text()
    # The naive implementation is many times slower.
    assert all(m.seconds <= 0.75 * m.naive_seconds for m in measurements[:4])
