"""What speed rests on and can be tested without a clock: operations and memory do not grow with the video."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashvid import CompressionConfig, compress
from jobs.bench.compress import bench_compress
from jobs.bench.cost import CountOperations, drifting_clip, peak_extra_bytes
from jobs.bench.thread_counts import selection_gap

SETTINGS = [(r, 1.0, compatible) for r in (0.1, 0.25) for compatible in (False, True)] + [(0.25, 1.25, False)]


@pytest.mark.parametrize(("retention_ratio", "expansion", "reference_compatible"), SETTINGS)
def test_operations_do_not_grow_with_the_video(
    retention_ratio: float, expansion: float, reference_compatible: bool
) -> None:
    config = CompressionConfig(
        retention_ratio=retention_ratio, expansion=expansion, reference_compatible=reference_compatible
    )
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


def test_memory_is_bounded_where_nothing_merges_over_time_and_tokens_repeat() -> None:
    """The most candidates there can be, and all of their distances once more in float64."""
    features, scores = drifting_clip(16, 100, 2048)
    features[:] = features[:, torch.arange(100) % 8] + 1e-5 * features
    config = CompressionConfig(retention_ratio=0.1, temporal_threshold=1.0)
    assert peak_extra_bytes(lambda: compress(features, scores, config)) <= 1.5 * 4 * features.numel()


def test_the_gap_at_which_selections_part() -> None:
    """Two tokens at right angles to all others, one with a little more attention."""
    features = torch.eye(4).view(1, 4, 4) + torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None] * 1e-3
    scores = torch.tensor([[0.5, 0.4, 0.3, 0.3 + 1e-7]])
    config = CompressionConfig(method="adts", retention_ratio=0.75)
    result = compress(features, scores, config)
    assert selection_gap((features, scores), result, result) == 0
    other = replace(result, indices=torch.tensor([0, 1, 2]))
    assert result.indices.tolist() == [0, 1, 3]
    assert selection_gap((features, scores), result, other) == pytest.approx(1e-7 / 0.5, rel=0.2)
    other = replace(result, indices=torch.tensor([0, 2, 3]))
    assert selection_gap((features, scores), result, other) > 0.1


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
    assert all(m.seconds <= 0.75 * m.naive_seconds and m.naive_differing == 0 for m in measurements[:4:2])
    assert "| vidcom2 |" in (tmp_path / "compress.md").read_text()
