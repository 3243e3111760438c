"""What speed rests on and can be tested without a clock: operations and memory do not grow with the video."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashvid import CompressionConfig, compress
from flashvid.config import TokenSelectionMethod
from jobs.bench.compress import Measurement, bench_compress
from jobs.bench.cost import drifting_clip
from jobs.lab.compression_study import CountedWork, NaiveComparison, compression_study, missed_times, missed_work
from jobs.lab.operations import CountOperations, peak_extra_bytes

SETTINGS = [(r, 1.0, compatible) for r in (0.1, 0.25) for compatible in (False, True)]
SETTINGS += [(0.25, 1.25, False), (0.25, 1.25, True)]


@pytest.mark.parametrize("method", ["attn_div", "attn_div_v2"])
@pytest.mark.parametrize(("retention_ratio", "expansion", "reference_compatible"), SETTINGS)
def test_operations_do_not_grow_with_the_video(
    retention_ratio: float, expansion: float, reference_compatible: bool, method: TokenSelectionMethod
) -> None:
    config = CompressionConfig(
        retention_ratio=retention_ratio,
        expansion=expansion,
        reference_compatible=reference_compatible,
        token_selection_method=method,
    )
    counts = []
    for num_frames, num_tokens in ((32, 64), (384, 64), (32, 196)):
        features, scores = drifting_clip(num_frames, num_tokens, 64)
        with CountOperations() as operations:
            compress(features, scores, config)
        counts.append(operations.count)
    short, long, fine = counts
    assert long <= 1.5 * short
    assert fine <= 400


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


def test_two_threads_keep_the_same_tokens_as_one() -> None:
    """Random features have no ties, so the order of sums decides nothing."""
    before, kept = torch.get_num_threads(), []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        clips = (drifting_clip(8, 196, 256, seed) for seed in range(3))
        kept.append([compress(*clip, CompressionConfig(retention_ratio=0.25)).indices.tolist() for clip in clips])
    torch.set_num_threads(before)
    assert kept[0] == kept[1]
    assert [len(indices) for indices in kept[0]] == [8 * 49] * 3


def test_what_is_over_its_limit_is_reported() -> None:
    """Times of full-size clips; operations, memory and the naive implementation in the study."""
    good = Measurement(32, 196, 3584, 0.1, "attn_div x 1", 1.7, 1.0, 1.7, 0.04, 1)
    longer = replace(good, frames=384, times_products=1.9)
    assert missed_times([good, longer, replace(good, width=64, times_products=9.0)]) == []
    for wrong in (replace(good, times_products=1.9), replace(good, control=0.06), replace(longer, times_products=2.1)):
        (problem,) = missed_times([wrong])
        assert problem.startswith(f"{wrong.frames} x 196 x 3584 at 0.10, attn_div x 1: ")
    work = CountedWork(32, 196, 3584, 0.1, "attn_div x 1", 628, 399, 1.5)
    more = replace(work, frames=384, operations=400)
    assert missed_work([work, more]) == []
    assert "401 operations" in missed_work([replace(work, operations=401)])[0]
    assert "1.60 of the input in memory" in missed_work([replace(work, peak_extra_memory=1.6)])[0]
    assert "grow" in missed_work([replace(work, operations=200), more])[0]
    same = NaiveComparison("4 x 36 x 64", 0.1, 0.1, 1.0, 0)
    assert same.missed() == []
    assert "0.80 of the naive implementation" in replace(same, seconds=0.8).missed()[0]
    assert "1 indices" in replace(same, differing=1).missed()[0]


def test_a_checkout_has_its_naive_implementation_from_anywhere(tmp_path: Path) -> None:
    """Also for the command `flashvid`, which does not import from the folder it is called in."""
    script = "from jobs.lab.compression_study import naive; assert naive() is not None"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 0


@pytest.mark.slow
def test_the_measurement_runs(tmp_path: Path) -> None:
    assert bench_compress(tmp_path, quick=True, study=compression_study) == []
    with (tmp_path / "compress.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 12
    with (tmp_path / "compress_work.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            expansion = float(row["settings"].split(",")[0].split()[-1])
            config = CompressionConfig(retention_ratio=float(row["retention_ratio"]), expansion=expansion)
            budget = config.clip_budget(int(row["frames"]), int(row["tokens"]))
            assert int(row["kept"]) == budget or "reference mode" in row["settings"]
    with (tmp_path / "compress_naive.csv").open(encoding="utf-8") as file:
        assert [row["differing"] for row in csv.DictReader(file)] == ["0"] * 4
    text = (tmp_path / "compress.md").read_text(encoding="utf-8")
    assert "Everything but times, which clips of this size do not show, is within its limits." in text
    with (tmp_path / "compress_methods.csv").open(encoding="utf-8") as file:
        kept = {(row["method"], row["retention_ratio"]): int(row["kept"]) for row in csv.DictReader(file)}
    assert kept["vidcom2", "0.25"] == 98
