"""What `flashvid bench quality` compares: methods with their settings, and where each is measured."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from flashvid import CompressionConfig

RETENTIONS = (0.5, 0.25, 0.2, 0.15, 0.1, 0.05)
VARIANT_RETENTIONS = (0.25, 0.1)


@dataclass(frozen=True)
class Arm:
    """One line of the table.

    Attributes:
        name: Its name there.
        config: Its settings, at whatever retention.
        is_variant: Whether it is measured at `VARIANT_RETENTIONS` only.
        published_tokens: Whether it gets as many tokens as the published implementation keeps of the same clip, which
            rounds its budget up in every frame, instead of the exact budget.
    """

    name: str
    config: CompressionConfig
    is_variant: bool = False
    published_tokens: bool = False

    @property
    def retentions(self) -> tuple[float, ...]:
        """At which it is measured, besides full tokens."""
        return VARIANT_RETENTIONS if self.is_variant else RETENTIONS


# Section 9 of the spec for Qwen2.5-VL, without pruning inside the language model.
_QWEN: dict[str, Any] = {"token_selection_method": "attn_div", "min_segment_num": 4}
PUBLISHED = CompressionConfig(reference_compatible=True, **_QWEN)

METHOD_ARMS = (
    Arm("flashvid", CompressionConfig(**_QWEN)),
    Arm("flashvid_published", PUBLISHED),
    Arm("adts", CompressionConfig(method="adts", **_QWEN)),
    Arm("tstm", CompressionConfig(method="tstm", **_QWEN)),
    Arm("attention_topk", CompressionConfig(method="attention_topk")),
    Arm("random", CompressionConfig(method="random")),
    Arm("uniform_frames", CompressionConfig(method="uniform_frames")),
    Arm("spatial_pooling", CompressionConfig(method="spatial_pooling")),
)


def _variant(name: str, **settings: Any) -> Arm:  # noqa: ANN401 - any setting of the compression
    return Arm(name, CompressionConfig(**{**_QWEN, **settings}), is_variant=True)


VARIANT_ARMS = (
    _variant("flashvid alpha=0.3", alpha=0.3),
    _variant("flashvid alpha=0.5", alpha=0.5),
    _variant("flashvid alpha=0.9", alpha=0.9),
    _variant("flashvid attn_div_v2", token_selection_method="attn_div_v2"),  # noqa: S106 - no password
    _variant("flashvid div", token_selection_method="div"),  # noqa: S106 - no password
    _variant("flashvid one segment", do_segment=False),
    _variant("flashvid min_segment_num=1", min_segment_num=1),
    _variant("flashvid min_segment_num=8", min_segment_num=8),
    _variant("flashvid temporal_threshold=0.7", temporal_threshold=0.7),
    _variant("flashvid temporal_threshold=0.9", temporal_threshold=0.9),
    Arm("flashvid, published tokens", CompressionConfig(**_QWEN), is_variant=True, published_tokens=True),
    Arm(
        "attention_topk, published tokens",
        CompressionConfig(method="attention_topk"),
        is_variant=True,
        published_tokens=True,
    ),
)


def ratio_for(tokens: int, total: int) -> float:
    """A retention ratio whose exact budget is `tokens` of `total`, whatever rounding does."""
    ratio = (tokens - 0.5) / total
    if math.ceil(ratio * total) != tokens:
        raise ValueError(f"{tokens} of {total} tokens")
    return ratio
