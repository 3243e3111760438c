"""What every compression method promises, and what some of them are, against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from flashvid import CompressionConfig, CompressionResult, ConfigurationError, compress
from flashvid.config import MethodName
from flashvid.methods import METHODS
from flashvid.methods.method import frame_budgets
from flashvid.methods.spatial_pooling import pooled_grid
from flashvid.methods.tome import merge_frame
from flashvid.methods.vidcom2 import frame_counts

# These round up to whole frames or whole grids.
_ROUNDED: tuple[MethodName, ...] = ("uniform_frames", "spatial_pooling")
# What the others keep depends on the question, and here they keep everything.
_VISION_SIDE = [name for name, method in METHODS.items() if not method.question_dependent]
_SHAPES = ((1, 16, 8), (2, 16, 8), (9, 36, 16), (16, 64, 8))


def _clip(num_frames: int, num_tokens: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_frames)
    still = torch.randn(1, num_tokens, width, generator=generator)
    features = still + 0.3 * torch.randn(num_frames, num_tokens, width, generator=generator)
    scores = torch.rand(num_frames, num_tokens, generator=generator)
    return features.to(dtype), scores


def _compress(method: MethodName, retention_ratio: float, clip: tuple[Tensor, Tensor]) -> CompressionResult:
    return compress(*clip, CompressionConfig(method=method, retention_ratio=retention_ratio))


@pytest.mark.parametrize("retention_ratio", [0.02, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("method", _VISION_SIDE)
def test_every_method(method: MethodName, shape: tuple[int, int, int], retention_ratio: float) -> None:
    """Exact budget, ascending indices, slots that are made of what `assignment` says, untouched arguments."""
    clip = _clip(*shape)
    before = [tensor.clone() for tensor in clip]
    result = _compress(method, retention_ratio, clip)
    assert all(torch.equal(old, new) for old, new in zip(before, clip, strict=True))
    total = shape[0] * shape[1]
    budget = math.ceil(retention_ratio * total)
    if method in _ROUNDED:
        assert len(result.tokens) >= budget
    else:
        assert len(result.tokens) == budget
    assert (result.indices.diff() > 0).all()
    assert sum(result.segment_lengths) == shape[0]
    assert result.assignment[result.indices].tolist() == [*range(len(result.tokens))]
    flat = clip[0].flatten(0, 1)
    for slot, token in enumerate(result.tokens):
        members = flat[result.assignment == slot]
        # A mean, of whatever weights, lies within what it is made of.
        assert (token >= members.amin(dim=0) - 1e-5).all()
        assert (token <= members.amax(dim=0) + 1e-5).all()
    again = _compress(method, retention_ratio, clip)
    assert torch.equal(result.tokens, again.tokens)
    if retention_ratio == 1.0:
        assert torch.equal(result.tokens, flat)


@pytest.mark.parametrize("method", _VISION_SIDE)
def test_halves_and_still_frames(method: MethodName) -> None:
    """Neither a dtype nor frames without any difference make a method fail."""
    features, scores = _clip(6, 16, 8, torch.bfloat16)
    for clip in ((features, scores), (features[:1].expand(6, -1, -1).contiguous(), scores[:1].expand(6, -1))):
        result = _compress(method, 0.25, clip)
        assert result.tokens.dtype == torch.bfloat16
        assert result.tokens.isfinite().all()
        assert len(result.tokens) >= 24


def test_attention_topk_keeps_the_highest_scores_of_each_frame() -> None:
    features, scores = _clip(9, 36, 16)
    result = _compress("attention_topk", 0.25, (features, scores))
    wanted = []
    for frame, count in enumerate(frame_budgets(81, 9)):
        best = sorted(range(36), key=lambda token: -float(scores[frame, token]))[:count]
        wanted += sorted(frame * 36 + token for token in best)
    assert result.indices.tolist() == wanted
    assert torch.equal(result.tokens, features.flatten(0, 1)[wanted])


def test_fastv_keeps_every_token_before_the_decoder() -> None:
    """And says so where one asks it for less."""
    features, scores = _clip(9, 36, 16)
    config = CompressionConfig(method="fastv")
    result = compress(features, scores, config)
    assert config.retention_ratio == 1.0
    assert torch.equal(result.tokens, features.flatten(0, 1))
    assert result.indices.tolist() == result.assignment.tolist() == [*range(9 * 36)]
    for less in ({"retention_ratio": 0.5}, {"expansion": 0.5}):
        with pytest.raises(ValidationError, match="fastv keeps every token on the vision side"):
            CompressionConfig.model_validate({"method": "fastv", **less})


def test_random_tokens_follow_their_seed() -> None:
    clip = _clip(9, 36, 16)
    kept = [compress(*clip, CompressionConfig(method="random", seed=seed)).indices.tolist() for seed in (0, 0, 1)]
    assert kept[0] == kept[1] != kept[2]


def test_uniform_frames_are_whole_and_evenly_spread() -> None:
    result = _compress("uniform_frames", 0.25, _clip(16, 64, 8))
    assert result.indices.tolist() == [frame * 64 + token for frame in (2, 6, 10, 14) for token in range(64)]
    assert len(_compress("uniform_frames", 0.26, _clip(16, 64, 8)).tokens) == 5 * 64


def test_pooling_takes_means_of_blocks() -> None:
    features, scores = _clip(2, 16, 8)
    result = _compress("spatial_pooling", 0.25, (features, scores))
    blocks = features.view(2, 2, 2, 2, 2, 8).mean(dim=(2, 4)).view(-1, 8)
    assert torch.allclose(result.tokens, blocks, atol=1e-6)


def test_pooling_needs_a_grid() -> None:
    features, scores = _clip(2, 15, 8)
    config = CompressionConfig(method="spatial_pooling")
    with pytest.raises(ConfigurationError, match="grid_hw"):
        compress(features, scores, config)
    assert len(compress(features, scores, config, grid_hw=(3, 5)).tokens) >= 8


@pytest.mark.parametrize(("grid", "wanted", "pooled"), [((8, 8), 16, (4, 4)), ((8, 8), 7, (2, 4)), ((8, 8), 1, (1, 1))])
def test_pooled_grids(grid: tuple[int, int], wanted: int, pooled: tuple[int, int]) -> None:
    assert pooled_grid(grid, wanted) in (pooled, pooled[::-1])


def test_tome_merges_the_most_alike_first() -> None:
    """Two pairs of near twins among strangers: they go first."""
    features = torch.eye(6)
    features[1] = features[0] + 0.01
    features[4] = features[5] + 0.02
    assert merge_frame(features, 4).tolist() == [1, 1, 2, 3, 5, 5]


def test_vidcom2_gives_an_odd_frame_more() -> None:
    features = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0)).repeat(8, 1, 1)
    features[5] = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    counts = (_compress("vidcom2", 0.25, (features, torch.ones(8, 64))).indices // 64).bincount(minlength=8)
    assert counts.argmax() == 5


def test_visionzip_keeps_what_is_attended_to_and_merges_the_rest() -> None:
    features, scores = _clip(1, 64, 8)
    result = _compress("visionzip", 0.25, (features, scores))
    attended = scores[0].topk(round(16 * 54 / 64)).indices
    assert torch.isin(attended, result.indices).all()
    slots = result.assignment[attended]
    assert torch.equal(result.tokens[slots], features[0, attended])
    assert (result.assignment >= 0).all()


def test_fastvid_weighs_an_anchor_among_what_it_gathers() -> None:
    features, scores = _clip(1, 36, 16)
    result = _compress("fastvid", 0.25, (features, scores))
    sizes = result.assignment.bincount(minlength=9)
    slot = int(sizes.argmax())
    members = (result.assignment == slot).nonzero().flatten()
    anchor = int(result.indices[slot])
    others = [int(member) for member in members if member != anchor]
    wanted = 0.6 * features[0, anchor] + 0.4 * features[0, others].mean(dim=0)
    assert torch.allclose(result.tokens[slot], wanted, atol=1e-5)


def test_vidcom2_gives_what_a_frame_cannot_hold_to_the_others() -> None:
    assert frame_counts(7, torch.tensor([1.0, 1.0, 5.0]), 4) == [2, 1, 4]
    assert frame_counts(12, torch.tensor([1.0, 1e-9, 5.0]), 4) == [4, 4, 4]
    assert frame_counts(10, torch.tensor([3.0, 1.0, 9.0]), 4) == [4, 2, 4]


def test_shares_add_up() -> None:
    assert frame_budgets(7, 3) == [2, 2, 3]
