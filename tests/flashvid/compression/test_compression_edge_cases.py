"""Edge cases in which the published implementation crashes, repeats tokens or returns NaN work or are clear errors.

The cases are those of the reference's `edge_cases.json`, which lists their results; a test checks that none is missing.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from flashvid import CompressionConfig, InvalidFeaturesError, compress
from tests.oracles.reference import GOLDEN, needs_reference

Clip = tuple[Tensor, Tensor]
Change = Callable[[Tensor, Tensor], object]
# The settings all cases share but for what they are about.
_SETTINGS: dict[str, Any] = {"retention_ratio": 0.25, "expansion": 1.25}
_ONE_SEGMENT: dict[str, Any] = {"do_segment": False}


def _clip(num_frames: int = 8, num_tokens: int = 64) -> Clip:
    """Return scenes that change slowly, around a common mean, as features do."""
    generator = torch.Generator().manual_seed(num_frames)
    still = torch.randn(1, num_tokens, 64, generator=generator) + 1
    features = still + 0.3 * torch.randn(num_frames, num_tokens, 64, generator=generator)
    scores = torch.rand(num_frames, num_tokens, generator=generator)
    return features, scores / scores.sum(dim=-1, keepdim=True)


def _zero_token(features: Tensor, _: Tensor) -> None:
    features[3, 5] = 0


def _black_frame(features: Tensor, _: Tensor) -> None:
    features[4] = 0


def _opposite(features: Tensor, _: Tensor) -> None:
    features[0] = -features[1]


# What a case does to its clip, by its name in the reference's list.
_CHANGES: dict[str, Change] = {
    "identical frames": lambda features, _: features.copy_(features[:1].clone().expand_as(features)),
    "all zeros": lambda features, _: features.zero_(),
    "one zero token": _zero_token,
    "one black frame": _black_frame,
    "identical tokens in frame": lambda features, _: features.copy_(features[:, :1].clone().expand_as(features)),
    "zero attention": lambda _, scores: scores.zero_(),
    "uniform attention": lambda _, scores: scores.fill_(1 / 64),
    "attention zero on 54/64": lambda _, scores: scores[:, 10:].zero_(),
    "anti-correlated frame": _opposite,
    "centred multi-scene": lambda features, _: features.sub_(features.mean(dim=(0, 1))),
}
_WORKING: list[tuple[str, int, dict[str, Any]]] = [
    *((f"{number} frames", number, {}) for number in (1, 2, 3, 4, 8)),
    *((name, 8, settings) for name in _CHANGES for settings in ({}, _ONE_SEGMENT)),
    ("identical frames", 32, {**_ONE_SEGMENT, "retention_ratio": 0.1}),
    *((f"budget>=tokens r={ratio}", 8, {**_ONE_SEGMENT, "retention_ratio": ratio}) for ratio in (0.8, 0.9, 1.0)),
    *(("r=1,exp=1", 8, {"retention_ratio": 1.0, "expansion": 1.0, "do_segment": seg}) for seg in (True, False)),
    ("r=1.0,alpha=1,exp=1", 8, {"retention_ratio": 1.0, "expansion": 1.0, "alpha": 1.0}),
    *((f"alpha={alpha}", 8, {"alpha": alpha}) for alpha in (0.0, 0.01, 0.999, 1.0)),
    ("alpha=0 noseg", 8, {**_ONE_SEGMENT, "alpha": 0.0}),
    ("alpha=0 single frame", 1, {"alpha": 0.0}),
    *(
        (f"thr={value}", 8, {**_ONE_SEGMENT, "temporal_threshold": value})
        for value in (1.5, 1.0, 0.999, 0.0, -1.0, -2.0)
    ),
    ("retention tiny", 8, {"retention_ratio": 0.001}),
    ("retention .01", 32, {"retention_ratio": 0.01}),
    ("min_seg > frames with one natural cut", 6, {"segment_threshold": 0.99}),
    ("min_segment 100", 8, {"min_segment_num": 100}),
]


def _changed(name: str, num_frames: int) -> Clip:
    features, scores = _clip(num_frames)
    for start, change in _CHANGES.items():
        if name.startswith(start):
            change(features, scores)
    return features, scores


@pytest.mark.parametrize("method", ["attn_div_v2", "attn_div", "attn", "div"])
@pytest.mark.parametrize(("name", "num_frames", "settings"), _WORKING, ids=str)
def test_it_works(name: str, num_frames: int, settings: dict[str, Any], method: str) -> None:
    """The budget is exact, no token repeats or is NaN, and the arguments do not change."""
    config = CompressionConfig(**{**_SETTINGS, **settings, "token_selection_method": method})
    features, scores = _changed(name, num_frames)
    before = features.clone(), scores.clone()
    result = compress(features, scores, config)
    assert len(result.tokens) == config.clip_budget(num_frames, 64)
    assert (result.indices.diff() > 0).all()
    assert result.tokens.isfinite().all()
    assert min(result.segment_lengths) > 0
    assert sum(result.segment_lengths) == num_frames
    assert torch.equal(features, before[0])
    assert torch.equal(scores, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", _CHANGES)
def test_it_works_in_half_precision(name: str, dtype: torch.dtype) -> None:
    features, scores = _changed(name, 8)
    result = compress(features.to(dtype), scores.to(dtype), CompressionConfig())
    assert len(result.tokens) == 128
    assert (result.indices.diff() > 0).all()
    assert result.tokens.isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reference_compatible", [False, True])
@pytest.mark.parametrize("which", ["features", "scores"])
def test_what_is_not_finite_is_refused(which: str, value: float, reference_compatible: bool) -> None:
    features, scores = _clip()
    (features if which == "features" else scores).view(-1)[100] = value
    with pytest.raises(InvalidFeaturesError, match=f"{which} contain NaN or infinite values"):
        compress(features, scores, CompressionConfig(reference_compatible=reference_compatible))


@pytest.mark.parametrize("setting", [{"retention_ratio": 0.0}, {"retention_ratio": 1.1}, {"min_segment_num": 0}])
def test_what_means_nothing_is_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(setting))):
        CompressionConfig(**setting)


@needs_reference
def test_no_case_of_the_references_is_missing() -> None:
    """Every edge case of the reference has a test here, by name."""
    listed = {case["name"] for case in json.loads((GOLDEN / "edge_cases.json").read_text(encoding="utf-8"))}
    known = {*_CHANGES, *(name for name, _, _ in _WORKING), "one NaN", "retention 0", "min_segment 0"}
    assert {name for name in listed if not any(name.startswith(start) for start in known)} == set()


_DIGEST = """
import hashlib, sys, torch
from flashvid import CompressionConfig, compress
from tests.flashvid.compression.test_compression_edge_cases import _clip
torch.set_num_threads(int(sys.argv[1]))
result = compress(*_clip(32), CompressionConfig())
print(hashlib.sha256(result.tokens.numpy().tobytes() + result.indices.numpy().tobytes()).hexdigest())
"""


def test_another_process_gives_the_same_bytes() -> None:
    """Another process gives the same bytes, which a cache filled by several machines needs."""
    result = compress(*_clip(32), CompressionConfig())
    here = hashlib.sha256(result.tokens.numpy().tobytes() + result.indices.numpy().tobytes()).hexdigest()
    command = [sys.executable, "-c", _DIGEST, str(torch.get_num_threads())]
    there = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert there.stdout.strip() == here
