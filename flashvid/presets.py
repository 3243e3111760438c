"""The settings of each family that the paper's numbers were made with (spec 9), and those of the embedded model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flashvid.config import CompressionConfig, InnerPruningConfig, TokenSelectionMethod
from flashvid.errors import ConfigurationError
from flashvid.method_registry import METHODS

# With inner pruning the vision side keeps this much more, and pruning inside the decoder takes it back (spec 0, 6).
_EXPANSION = 1.25


@dataclass(frozen=True)
class Preset:
    """The settings of one model of a family.

    Attributes:
        name: The family's, and the model's where a family has several.
        family: Name of the family.
        published_for: The model it was published for, or measured on.
        num_layers: Of that model's decoder.
        token_selection_method: See `CompressionConfig`.
        min_segment_num: See `CompressionConfig`.
        pruning_layer: Before which decoder layer, counted from 0, visual tokens are pruned again.
        llm_retention_ratio: Share of the prunable tokens that this pruning keeps.
    """

    name: str
    family: str
    published_for: str
    num_layers: int
    token_selection_method: TokenSelectionMethod
    min_segment_num: int
    pruning_layer: int
    llm_retention_ratio: float
    alpha: float = 0.7
    segment_threshold: float = 0.9
    temporal_threshold: float = 0.8
    expansion: float = _EXPANSION

    def compression(self, retention_ratio: float, *, inner_pruning: bool = True) -> CompressionConfig:
        """Settings of the vision side.

        Args:
            retention_ratio: Share of the visual tokens to keep, averaged over the decoder's layers.
            inner_pruning: Whether the decoder prunes with `pruning_layer` and `llm_retention_ratio`; without, tokens
                are not expanded, so that the average is the same.

        Raises:
            pydantic.ValidationError: a ratio that is not above 0 and at most 1.
        """
        return CompressionConfig(
            retention_ratio=retention_ratio,
            segment_threshold=self.segment_threshold,
            min_segment_num=self.min_segment_num,
            token_selection_method=self.token_selection_method,
            alpha=self.alpha,
            temporal_threshold=self.temporal_threshold,
            expansion=self.expansion if inner_pruning else 1.0,
        )

    def inner_pruning(self) -> InnerPruningConfig:
        """Settings of the pruning inside the decoder."""
        return InnerPruningConfig(pruning_layer=self.pruning_layer, llm_retention_ratio=self.llm_retention_ratio)

    def average_retention(self, retention_ratio: float, *, num_layers: int | None = None) -> float:
        """Visual tokens averaged over the decoder's layers, as a share of all, with inner pruning (spec 6).

        Args:
            retention_ratio: As asked for.
            num_layers: Of the model at hand; the published one's when omitted.
        """
        layers = num_layers or self.num_layers
        before = min(self.pruning_layer, layers)
        return retention_ratio * self.expansion * (before + self.llm_retention_ratio * (layers - before)) / layers


_ALL = (
    Preset("llava_onevision", "llava_onevision", "LLaVA-OneVision-7B", 28, "attn_div_v2", 8, 20, 0.3),
    Preset("llava_video", "llava_video", "LLaVA-Video-7B", 28, "attn_div_v2", 8, 20, 0.3),
    Preset("qwen2_5_vl", "qwen2_5_vl", "Qwen2.5-VL-7B", 28, "attn_div", 4, 20, 0.3),
    Preset("qwen3_vl", "qwen3_vl", "Qwen3-VL-8B", 36, "attn_div", 4, 28, 0.1),
    Preset("qwen3_vl_4b", "qwen3_vl", "Qwen3-VL-4B", 36, "attn_div", 4, 24, 0.4),
    # Chosen on clips of its own (docs/quality.md): merging across frames costs small objects their place in time.
    Preset("tiny", "qwen2_5_vl", "the embedded tiny", 4, "attn_div", 16, 3, 0.2, alpha=0.75),
)
FASTV_PRUNING = InnerPruningConfig.model_validate(METHODS["fastv"].inner_pruning)
PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})


def preset_named(name: str) -> Preset:
    """The preset of that name; a family's own name is that of its default.

    Raises:
        ConfigurationError: there is none.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"preset {name!r} is none of {', '.join(PRESETS)}")
    return PRESETS[name]
