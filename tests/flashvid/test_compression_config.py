"""Settings are checked on construction, and determine the token budget."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

import flashvid
from flashvid import CompressionConfig


def test_defaults() -> None:
    assert CompressionConfig().model_dump() == {
        "method": "flashvid",
        "retention_ratio": 0.25,
        "do_segment": True,
        "segment_threshold": 0.9,
        "min_segment_num": 8,
        "complementary_segment": True,
        "token_selection_method": "attn_div",
        "alpha": 0.7,
        "temporal_threshold": 0.8,
        "expansion": 1.0,
        "event_relevance": "segment",
        "reference_compatible": False,
        "seed": 0,
    }


@pytest.mark.parametrize(
    "setting",
    [
        {"retention_ratio": 0},
        {"retention_ratio": 1.01},
        {"retention_ratio": math.nan},
        {"alpha": -0.1},
        {"alpha": 1.1},
        {"expansion": 0},
        {"expansion": math.inf},
        {"min_segment_num": 0},
        {"seed": 2**64},
        {"temporal_threshold": math.nan},
        {"token_selection_method": "attn_div_v3"},
        {"retention": 0.5},
    ],
)
def test_impossible_settings_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=next(iter(setting))):
        CompressionConfig(**setting)


def test_settings_do_not_change() -> None:
    config = CompressionConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.alpha = 0.5  # type: ignore[misc]


def test_every_setting_is_described_in_plain_words() -> None:
    """Descriptions are lower case except for names, without a final stop."""
    for name, field in CompressionConfig.model_fields.items():
        assert field.description, name
        assert not field.description.endswith("."), name
        assert field.description[0].islower() or field.description.startswith("FlashVID"), name


@pytest.mark.parametrize(
    ("num_tokens", "retention_ratio", "expansion", "n_select", "n_merge"),
    [
        (64, 0.25, 1.25, 14, 6),
        (196, 0.1, 1.25, 18, 7),
        (169, 0.2, 1.25, 31, 12),
        (64, 0.001, 1.0, 1, 0),
        (64, 1.0, 1.25, 56, 24),
    ],
)
def test_budget(num_tokens: int, retention_ratio: float, expansion: float, n_select: int, n_merge: int) -> None:
    config = CompressionConfig(retention_ratio=retention_ratio, expansion=expansion)
    assert config.budget(num_tokens) == n_select + n_merge
    assert (config.n_select(num_tokens), config.n_merge(num_tokens)) == (n_select, n_merge)


def test_budget_is_rounded_in_the_order_of_the_reference() -> None:
    orders = [(n * 0.1) * 1.25 for n in range(1, 400)], [n * (0.1 * 1.25) for n in range(1, 400)]
    expected, other = ([math.ceil(product) for product in products] for products in orders)
    assert expected != other, "otherwise this tests nothing"
    config = CompressionConfig(retention_ratio=0.1, expansion=1.25)
    assert [config.budget(n) for n in range(1, 400)] == expected


def test_public_names() -> None:
    assert {"CompressionConfig", "CompressionResult", "compress", "InvalidFeaturesError"} <= set(flashvid.__all__)
    assert all(hasattr(flashvid, name) for name in flashvid.__all__)
