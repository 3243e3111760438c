"""`bench quality`: intervals, tables and the measurement itself, with a model that knows nothing."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from flashvid import InnerPruningConfig
from jobs.evaluation.accuracy import ratio_interval
from jobs.lab import quality, worker
from jobs.lab.arms import METHOD_ARMS, RETENTIONS, VARIANT_ARMS, ratio_for
from jobs.lab.measurement import FULL, Measurement
from jobs.lab.more_frames import FEW_FRAMES, views
from jobs.lab.quality_table import family_markdown, markdown, plot_quality, quality_rows, read_csv, write_csv
from jobs.lab.worker import tokens_per_layer


def test_an_interval_is_that_of_clips_not_of_questions() -> None:
    """Ten answers about one clip that are all the same are one observation, not ten."""
    rng = np.random.default_rng(0)
    right = (rng.random(40) < 0.8).astype(float)
    alone = ratio_interval(np.arange(40), right, np.ones(40))
    repeated = ratio_interval(np.repeat(np.arange(40), 10), np.repeat(right, 10), np.ones(400))
    assert alone.value == repeated.value == right.mean()
    assert (alone.low, alone.high) == pytest.approx((repeated.low, repeated.high))
    assert alone.high - alone.low == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 40), rel=0.35)


def test_an_interval_is_paired() -> None:
    """A method that errs exactly where full tokens do is at 1, without doubt."""
    right = np.array([1.0, 0.0, 1.0, 1.0] * 10)
    interval = ratio_interval(np.arange(40), right, right)
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def _measured() -> list[Measurement]:
    rows = [Measurement(FULL, 1.0, clip, 0, "colour", 512, clip != 0, True) for clip in range(4)]
    rows += [Measurement(FULL, 1.0, clip, 1, "count", 512, True, True) for clip in range(4)]
    rows += [Measurement("tome", 0.1, clip, 0, "colour", 52, clip == 3, clip > 1) for clip in range(4)]
    return rows


def test_rows_relate_to_full_tokens_on_the_same_questions(tmp_path: Path) -> None:
    rows = quality_rows(_measured(), FULL, seed=7)
    found = {(row.method, row.family): row for row in rows}
    assert set(found) == {(FULL, "all"), (FULL, "colour"), (FULL, "count"), ("tome", "all"), ("tome", "colour")}
    assert found[FULL, "all"].accuracy == 7 / 8
    row = found["tome", "all"]
    assert (row.n, row.accuracy, row.first_answer_accuracy, row.realised_tokens, row.seed) == (4, 0.25, 0.5, 52, 7)
    assert row.relative == pytest.approx(1 / 3)
    assert row.ci_low <= row.relative <= row.ci_high

    write_csv(tmp_path / "quality.csv", rows)
    header = (tmp_path / "quality.csv").read_text().splitlines()[0].replace('"', "")
    assert header == (
        "method,retention,realised_tokens,family,seed,n,accuracy,first_answer_accuracy,relative,ci_low,ci_high,"
        "commit,versions,machine"
    )
    assert [one.method for one in read_csv(tmp_path / "quality.csv")] == [one.method for one in rows]
    assert "| tome | 0.10 | 52.0 | 4 | 0.250 | 0.500 | 0.333 |" in markdown(rows)
    assert "| tome | 0.250 |  |" in family_markdown(rows, 0.1)
    plot_quality(tmp_path / "quality.png", rows, ["tome"])
    assert (tmp_path / "quality.png").stat().st_size > 1000


def test_budgets_can_be_named_to_the_token() -> None:
    for tokens in range(1, 1025):
        assert 0 < ratio_for(tokens, 1024) < 1


def test_pruning_inside_the_decoder_takes_back_what_expansion_gives() -> None:
    inner = next(arm for arm in METHOD_ARMS if arm.name == "flashvid_inner")
    assert inner.config is not None
    assert inner.pruning is not None
    tokens = inner.config.model_copy(update={"retention_ratio": 0.1}).clip_budget(16, 64)
    assert tokens_per_layer(tokens, inner.pruning, 4) == pytest.approx(0.1 * 1024, rel=0.01)
    assert tokens_per_layer(100, None, 4) == 100
    assert tokens_per_layer(100, InnerPruningConfig(pruning_layer=9), 4) == 100


def test_every_arm_is_measured_on_the_same_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, with random weights: counts, budgets and pairing, whatever the answers are."""
    monkeypatch.setattr(worker, "_MODELS", [])
    worker.load("tiny-random")
    scope = quality.Scope(main_clips=2, other_clips=1)
    arms = (*METHOD_ARMS[:2], *METHOD_ARMS[-2:], *VARIANT_ARMS[-2:])
    clips = quality.clips(scope)
    measured = [one for numbered in enumerate(clips) for one in quality.measure_clip(numbered, arms=arms, scope=scope)]
    asked = {(one.clip, one.question) for one in measured if one.method == FULL}
    assert len(asked) == 16
    for arm in arms:
        at_main = {(one.clip, one.question) for one in measured if one.method == arm.name and one.retention == 0.1}
        assert at_main == (asked if 0.1 in arm.retentions else set()), arm.name
        retentions = {one.retention for one in measured if one.method == arm.name and one.clip == 0}
        assert retentions == set(arm.retentions)
        rounded = arm.config is None or arm.config.method in ("uniform_frames", "spatial_pooling")
        # The model is not deep enough to prune inside.
        if rounded or arm.config.reference_compatible or arm.published_tokens or arm.pruning:
            continue
        for one in (one for one in measured if one.method == arm.name):
            total = next(full.tokens for full in measured if full.clip == one.clip and full.method == FULL)
            assert one.tokens == math.ceil(one.retention * total), arm.name
    assert set(RETENTIONS) == {one.retention for one in measured} - {1.0}


def test_ten_times_the_frames_get_the_same_tokens() -> None:
    shown = {view.name: view for view in views()}
    few = shown.pop(FEW_FRAMES)
    for view in shown.values():
        assert view.num_frames == 10 * few.num_frames
        assert view.retention in (0.1, 1.0)
