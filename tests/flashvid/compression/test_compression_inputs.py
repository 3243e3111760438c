"""Invalid tensors, values and grids, and cases in which the reference crashes, are errors before any work."""

from __future__ import annotations

import pytest
import torch

from flashvid import CompressionConfig, ConfigurationError, InvalidFeaturesError, compress


@pytest.mark.parametrize("name", ["features", "scores"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2e9])
def test_impossible_values_are_refused(name: str, value: float) -> None:
    tensors = {"features": torch.ones(2, 3, 4), "scores": torch.ones(2, 3)}
    tensors[name].view(-1)[1] = value
    with pytest.raises(InvalidFeaturesError, match=name):
        compress(**tensors, config=CompressionConfig())


@pytest.mark.parametrize(
    ("features", "scores", "message"),
    [
        (torch.ones(3, 4), torch.ones(3), r"features must be \[T, N, D\], not of shape \[3, 4\]"),
        (torch.ones(2, 3, 4), torch.ones(2, 3, 1), r"scores must be \[T, N\]"),
        (torch.ones(2, 3, 4), torch.ones(3, 2), "differ in frames or tokens"),
        (torch.ones(2, 3, 4), torch.ones(2, 4), "differ in frames or tokens"),
        (torch.ones(2, 3, 4, dtype=torch.int64), torch.ones(2, 3), "features must be floating point"),
        (torch.ones(2, 3, 4), torch.ones(2, 3, dtype=torch.int32), "scores must be floating point"),
        (torch.ones(2, 3, 4).to(torch.float8_e4m3fn), torch.ones(2, 3), "features must be floating point of"),
        (torch.ones(0, 3, 4), torch.ones(0, 3), "features are empty"),
        (torch.ones(2, 0, 4), torch.ones(2, 0), "features are empty"),
        (torch.ones(2, 3, 0), torch.ones(2, 3), "features are empty"),
        (torch.ones(2, 3, 4), torch.ones(2, 3, device="meta"), "on cpu, scores on meta"),
        (torch.ones(2, 3, 4, device="meta"), torch.ones(2, 3, device="meta"), "features must be a dense tensor"),
        (torch.ones(2, 3, 4).to_sparse(), torch.ones(2, 3), "features must be a dense tensor"),
        ([[[1.0]]], torch.ones(1, 1), "features must be a tensor"),
    ],
)
def test_wrong_tensors_are_refused(features: torch.Tensor, scores: torch.Tensor, message: str) -> None:
    with pytest.raises(InvalidFeaturesError, match=message):
        compress(features, scores, CompressionConfig())


@pytest.mark.parametrize("grid", [(-4, -4), (4.0, 4.0), (2, 2, 4), (4, 5), 16])
def test_wrong_grids_are_refused(grid: tuple[int, int]) -> None:
    with pytest.raises(InvalidFeaturesError, match="grid"):
        compress(torch.ones(2, 16, 4), torch.ones(2, 16), CompressionConfig(), grid_hw=grid)


def test_the_references_division_by_zero_is_a_configuration_error() -> None:
    config = CompressionConfig(temporal_threshold=1.0, reference_compatible=True)
    with pytest.raises(ConfigurationError, match="temporal_threshold"):
        compress(torch.ones(2, 30, 4), torch.ones(2, 30), config)


def test_the_references_overflow_is_refused() -> None:
    """Chains of eight equal tokens, whose sum the reference divides by two, overflow float16."""
    features = (6e4 * torch.eye(16)).to(torch.float16).repeat(8, 1, 1)
    scores = torch.ones(8, 16)
    config = CompressionConfig(retention_ratio=0.06, alpha=0.0, do_segment=False, reference_compatible=True)
    with pytest.raises(InvalidFeaturesError, match="overflow"):
        compress(features, scores, config)
    corrected = compress(features, scores, config.model_copy(update={"reference_compatible": False}))
    assert corrected.tokens.isfinite().all()
    flat = compress(torch.full_like(features, 6e4), scores, config.model_copy(update={"reference_compatible": False}))
    assert torch.equal(flat.tokens, torch.full_like(flat.tokens, 6e4))
