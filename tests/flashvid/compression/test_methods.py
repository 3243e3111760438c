"""Properties of every compression method, and methods compared with plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from flashvid import CompressionConfig, CompressionResult, ConfigurationError, compress
from flashvid.compression.method import frame_budgets
from flashvid.compression.rivals.spatial_pooling import pooled_grid
from flashvid.compression.rivals.tome import merge_frame
from flashvid.compression.rivals.vidcom2 import frame_counts
from flashvid.config import MethodName
from flashvid.methods import METHODS
from tests.oracles.naive_compression import Slot, naive_compress
from tests.oracles.naive_methods import NAIVE_METHODS
from tests.support.packages import ROOT, install_package, run_python

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
    """The budget is exact, indices ascend, slots are made of their `assignment`, and arguments do not change."""
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
        # A weighted mean is within the range of its inputs.
        assert (token >= members.amin(dim=0) - 1e-5).all()
        assert (token <= members.amax(dim=0) + 1e-5).all()
    again = _compress(method, retention_ratio, clip)
    assert torch.equal(result.tokens, again.tokens)
    if retention_ratio == 1.0:
        assert torch.equal(result.tokens, flat)


@pytest.mark.parametrize("num_tokens", [16, 49, 100])
def test_fastvid_tells_tokens_apart_that_are_nearly_equal(num_tokens: int) -> None:
    """Tokens of one frame that differ by thousandths of their length, some of them equal: as in float64."""
    generator = torch.Generator().manual_seed(num_tokens)
    features = 10 + 0.01 * torch.randn(1, num_tokens, 8, generator=generator)
    features[0, 3] = features[0, 7]
    scores = torch.rand(1, num_tokens, generator=generator)
    result = _compress("fastvid", 0.5, (features, scores))
    slots = NAIVE_METHODS["fastvid"](features.double().numpy(), scores.double().numpy(), math.ceil(num_tokens / 2))
    assert result.indices.tolist() == sorted(slot.index for slot in slots)


@pytest.mark.parametrize("retention_ratio", [0.04, 0.11, 0.25, 0.6])
@pytest.mark.parametrize("shape", [(1, 16, 8), (6, 16, 8), (18, 25, 6)])
@pytest.mark.parametrize("method", NAIVE_METHODS)
def test_every_rival_is_what_its_paper_says(
    method: MethodName, shape: tuple[int, int, int], retention_ratio: float
) -> None:
    features, scores = _scenes(*shape)
    frames = [list(frame) for frame in features.double().numpy()]
    budget = math.ceil(retention_ratio * shape[0] * shape[1])
    slots = sorted(NAIVE_METHODS[method](frames, scores.double().tolist(), budget), key=lambda slot: slot.index)
    _assert_made_of(slots, _compress(method, retention_ratio, (features, scores)))


@pytest.mark.parametrize("retention_ratio", [0.04, 0.25])
@pytest.mark.parametrize(("method", "alpha"), [("adts", 1.0), ("tstm", 0.0)])
def test_a_part_of_flashvid_gets_the_whole_budget(method: MethodName, alpha: float, retention_ratio: float) -> None:
    clip = _scenes(6, 16, 8)
    whole = CompressionConfig(retention_ratio=retention_ratio, alpha=alpha)
    _assert_made_of(
        naive_compress(clip[0].numpy(), clip[1].numpy(), whole)[0], _compress(method, retention_ratio, clip)
    )


def _scenes(num_frames: int, num_tokens: int, width: int) -> tuple[Tensor, Tensor]:
    """Return three scenes, so that some consecutive frames are similar and others are not."""
    features, scores = _clip(num_frames, num_tokens, width)
    generator = torch.Generator().manual_seed(7)
    scenes = torch.randn(3, 1, width, generator=generator) + 0.5 * torch.randn(
        3, num_tokens, width, generator=generator
    )
    return features + 2 * scenes[torch.arange(num_frames) * 3 // num_frames], scores


def _assert_made_of(slots: list[Slot], result: CompressionResult) -> None:
    """Assert the same tokens as the plain loops, made of the same inputs."""
    assert result.indices.tolist() == [slot.index for slot in slots]
    expected = torch.from_numpy(np.stack([slot.token for slot in slots])).float()
    torch.testing.assert_close(result.tokens, expected, rtol=1e-5, atol=1e-5)
    owners = {source: number for number, slot in enumerate(slots) for source in slot.sources}
    assert result.assignment.tolist() == [owners.get(token, -1) for token in range(len(result.assignment))]


def test_every_method_that_decides_has_an_oracle() -> None:
    assert {*METHODS} - {*NAIVE_METHODS} == {"flashvid", "adts", "tstm", "random", "fastv"}


@pytest.mark.parametrize("method", _VISION_SIDE)
def test_halves_and_still_frames(method: MethodName) -> None:
    """Every method works with 16-bit dtypes and with identical frames."""
    features, scores = _clip(6, 16, 8, torch.bfloat16)
    for clip in ((features, scores), (features[:1].expand(6, -1, -1).contiguous(), scores[:1].expand(6, -1))):
        result = _compress(method, 0.25, clip)
        assert result.tokens.dtype == torch.bfloat16
        assert result.tokens.isfinite().all()
        assert len(result.tokens) == (32 if method == "uniform_frames" else 24)


_PLUGIN = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8").split("```python\n")[1]


@pytest.mark.parametrize(
    ("name", "code", "expected"),
    [
        ("first_tokens", _PLUGIN.split("```")[0], "[0, 1, 8, 9] 1"),
        ("tome", _PLUGIN.split("```")[0], "two plug-ins of flashvid.methods have the name 'tome'"),
        ("first_tokens", _PLUGIN.split("```")[0].replace("version=1", "version=0"), "a positive integer version"),
        ("last_tokens", _PLUGIN.split("```")[0], "it must declare the name 'last_tokens'"),
    ],
    ids=["as documented", "a name that is taken", "no version", "another name"],
)
def test_a_method_of_another_package(tmp_path: Path, name: str, code: str, expected: str) -> None:
    """The method of docs/methods.md works as an installed package, with its version."""
    install_package(tmp_path, "first_tokens", "flashvid.methods", {name: "first_tokens:METHOD"}, code)
    script = (
        "import torch; from flashvid import CompressionConfig, compress; from flashvid.methods import METHODS;"
        f"config = CompressionConfig(method='{name}', retention_ratio=0.25);"
        "tokens = compress(torch.rand(2, 8, 4), torch.rand(2, 8), config);"
        f"print(tokens.indices.tolist(), METHODS.version('{name}'))"
    )
    found = run_python(tmp_path, script)
    assert expected in (found.stdout.strip() if found.returncode == 0 else found.stderr)


def test_fastv_keeps_every_token_before_the_decoder() -> None:
    """FastV keeps every token on the vision side, and a smaller ratio is an error."""
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
    """The two pairs of nearly equal tokens are merged first."""
    features = torch.eye(6)
    features[1] = features[0] + 0.01
    features[4] = features[5] + 0.02
    assert merge_frame(features, 4).tolist() == [1, 1, 2, 3, 5, 5]


def test_vidcom2_gives_an_odd_frame_more() -> None:
    features = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(0)).repeat(8, 1, 1)
    features[5] = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    counts = (_compress("vidcom2", 0.25, (features, torch.ones(8, 64))).indices // 64).bincount(minlength=8)
    assert counts.argmax() == 5


def test_vidcom2_gives_what_a_frame_cannot_hold_to_the_others() -> None:
    assert frame_counts(7, torch.tensor([1.0, 1.0, 5.0]), 4) == [2, 1, 4]
    assert frame_counts(12, torch.tensor([1.0, 1e-9, 5.0]), 4) == [4, 4, 4]
    assert frame_counts(10, torch.tensor([3.0, 1.0, 9.0]), 4) == [4, 2, 4]


def test_shares_add_up() -> None:
    assert frame_budgets(7, 3) == [2, 2, 3]
