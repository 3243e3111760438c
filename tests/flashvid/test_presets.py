"""The published settings, family by family."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from flashvid.errors import ConfigurationError
from flashvid.models.registry import FAMILIES
from flashvid.presets import PRESETS, preset_named


def test_every_family_has_one_of_its_name() -> None:
    """Every preset belongs to a family that exists."""
    families = {*FAMILIES}
    assert {preset.family for preset in PRESETS.values()} == families
    assert all(preset_named(name).family == name for name in families)


@pytest.mark.parametrize(
    ("name", "method", "segments", "layer", "ratio"),
    [
        ("llava_onevision", "attn_div_v2", 8, 20, 0.3),
        ("llava_video", "attn_div_v2", 8, 20, 0.3),
        ("qwen2_5_vl", "attn_div", 4, 20, 0.3),
        ("qwen3_vl", "attn_div", 4, 28, 0.1),
        ("qwen3_vl_4b", "attn_div", 4, 24, 0.4),
    ],
)
def test_the_table_of_the_specification(name: str, method: str, segments: int, layer: int, ratio: float) -> None:
    """Values are those of docs/flashvid.md, section 9."""
    preset = preset_named(name)
    assert (preset.pruning_layer, preset.llm_retention_ratio) == (layer, ratio)
    config = preset.compression(0.1)
    assert (config.token_selection_method, config.min_segment_num) == (method, segments)
    assert (config.alpha, config.segment_threshold, config.temporal_threshold) == (0.7, 0.9, 0.8)
    assert config.complementary_segment
    assert not config.reference_compatible


@pytest.mark.parametrize("name", PRESETS)
def test_expansion_is_what_inner_pruning_takes_back(name: str) -> None:
    """Expansion is 1.25 with inner pruning, which keeps the average over the layers; without, it is 1."""
    preset = preset_named(name)
    assert preset.average_retention(0.2) == pytest.approx(0.2)
    assert preset.compression(0.2).expansion == 1.25
    assert preset.compression(0.2, inner_pruning=False).expansion == 1.0
    # A decoder with fewer layers than the pruning layer is never pruned.
    assert preset.average_retention(0.2, num_layers=preset.pruning_layer) == pytest.approx(0.25)


def test_what_is_refused() -> None:
    """Unknown names and impossible ratios are refused."""
    with pytest.raises(
        ConfigurationError, match="preset 'qwen' is not one of llava_onevision, llava_video, qwen2_5_vl"
    ):
        preset_named("qwen")
    with pytest.raises(ValidationError):
        preset_named("qwen3_vl").compression(0.0)
