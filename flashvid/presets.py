"""Published settings of each family (docs/flashvid.md, section 9), and settings of the embedded model."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from flashvid.config import CompressionConfig, InnerPruningConfig, TokenSelectionMethod
from flashvid.errors import ConfigurationError
from flashvid.method_registry import METHODS

# With inner pruning the vision side keeps this many times as many tokens, and the decoder prunes the surplus
# (docs/flashvid.md, sections 0 and 6).
_EXPANSION = 1.25


@dataclass(frozen=True)
class Preset:
    """The settings of one model of a family.

    Attributes:
        name: Name of the family, or of the model if a family has several presets.
        family: Name of the family.
        published_for: The model that the settings were published for, or measured on.
        num_layers: Number of layers of that model's decoder.
        token_selection_method: See `CompressionConfig`.
        min_segment_num: See `CompressionConfig`.
        pruning_layer: See `InnerPruningConfig`.
        llm_retention_ratio: See `InnerPruningConfig`.
        alpha: See `CompressionConfig`.
        segment_threshold: See `CompressionConfig`.
        temporal_threshold: See `CompressionConfig`.
        expansion: See `CompressionConfig`; applies with inner pruning only.
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
        """Return the settings of the vision side.

        Args:
            retention_ratio: Share of the visual tokens to keep, averaged over the decoder's layers.
            inner_pruning: Whether the decoder prunes with `pruning_layer` and `llm_retention_ratio`; if not,
                `expansion` is 1, which leaves the average the same.

        Raises:
            pydantic.ValidationError: The ratio is not above 0 and at most 1.
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
        """Return the settings of the pruning inside the decoder."""
        return InnerPruningConfig(pruning_layer=self.pruning_layer, llm_retention_ratio=self.llm_retention_ratio)

    def average_retention(self, retention_ratio: float, *, num_layers: int | None = None) -> float:
        """Return the share of the visual tokens that inner pruning leaves, averaged over the decoder's layers.

        Formula: docs/flashvid.md, section 6.

        Args:
            retention_ratio: As in `compression`.
            num_layers: Number of layers of the decoder; that of the published model when omitted.
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
    # Chosen on clips of its own (docs/quality.md): merged across frames, small objects lose their place in time.
    Preset("tiny", "qwen2_5_vl", "the embedded tiny", 4, "attn_div", 16, 3, 0.2, alpha=0.75),
)
FASTV_PRUNING = InnerPruningConfig.model_validate(METHODS["fastv"].inner_pruning)
PRESETS: Mapping[str, Preset] = MappingProxyType({preset.name: preset for preset in _ALL})


def preset_named(name: str) -> Preset:
    """Return the preset of that name; the name of a family is that of its default preset.

    Raises:
        ConfigurationError: There is no preset of that name.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"preset {name!r} is not one of {', '.join(PRESETS)}")
    return PRESETS[name]
