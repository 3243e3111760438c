"""What `flashvid bench quality` compares: methods with their settings, and where each is measured."""

import math
from dataclasses import dataclass
from typing import Any

from flashvid import CompressionConfig, InnerPruningConfig
from flashvid.method_registry import METHODS
from flashvid.presets import preset_named
from pipeline.config import CacheDtype

RETENTIONS = (0.5, 0.25, 0.2, 0.15, 0.1, 0.05)
_VARIANT_RETENTIONS = (0.25, 0.1)


@dataclass(frozen=True)
class Arm:
    """One line of the table.

    Attributes:
        name: Its name in the table.
        config: Its settings, whose retention is replaced; None keeps every token.
        retentions: Retentions at which it is measured.
        pruning: Pruning inside the decoder; None for none.
        max_segment_frames: Of a stream (`compress_stream`); None compresses the whole clip at once.
        cache_dtype: How tokens are stored before questions are asked; None is bit for bit.
        published_tokens: Whether its budget is the number of tokens that the published implementation keeps of the
            same clip, which rounds up in every frame, instead of the exact budget.
    """

    name: str
    config: CompressionConfig | None
    retentions: tuple[float, ...] = RETENTIONS
    pruning: InnerPruningConfig | None = None
    max_segment_frames: int | None = None
    cache_dtype: CacheDtype | None = None
    published_tokens: bool = False


_ANY = 1.0  # Retention is filled in where it is measured.
# Chosen for the embedded model on clips of `--tune`: docs/quality.md.
OURS, OURS_EXPANDED = (preset_named("tiny").compression(_ANY, inner_pruning=inner) for inner in (False, True))
# The published settings for Qwen2.5-VL (docs/methods.md), without pruning inside the language model and with it.
PUBLISHED, PUBLISHED_EXPANDED = (
    CompressionConfig.model_validate(
        {**preset_named("qwen2_5_vl").compression(_ANY, inner_pruning=inner).model_dump(), "reference_compatible": True}
    )
    for inner in (False, True)
)
# The paper's budget for four layers: three see 1.25 times the tokens and the last a fifth of them, the average is 1.
_INNER = preset_named("tiny").inner_pruning()
# FastV cannot go lower here: after its first layer a third of all tokens, which is half on average over four layers.
_FASTV = InnerPruningConfig(pruning_layer=1, llm_retention_ratio=1 / 3)

METHOD_ARMS = (
    Arm("flashvid", OURS),
    Arm("flashvid_published", PUBLISHED),
    Arm("flashvid_inner", OURS_EXPANDED, pruning=_INNER),
    Arm("flashvid_published_inner", PUBLISHED_EXPANDED, pruning=_INNER),
    Arm("adts", OURS.model_copy(update={"method": "adts"})),
    Arm("tstm", OURS.model_copy(update={"method": "tstm"})),
    Arm("fastv", None, retentions=(0.5,), pruning=_FASTV),
    # Every other method of the registry, at its defaults.
    *(
        Arm(method, CompressionConfig(method=method))
        for method in METHODS
        if method not in ("flashvid", "adts", "tstm", "fastv")
    ),
)


def _variant(name: str, **settings: Any) -> Arm:  # noqa: ANN401 - any setting of the compression
    return Arm(name, OURS.model_copy(update=settings), retentions=_VARIANT_RETENTIONS)


VARIANT_ARMS = (
    _variant("flashvid alpha=0.3", alpha=0.3),
    _variant("flashvid alpha=0.5", alpha=0.5),
    _variant("flashvid alpha=0.9", alpha=0.9),
    _variant("flashvid attn_div_v2", token_selection_method="attn_div_v2"),  # noqa: S106 - no password
    _variant("flashvid attn", token_selection_method="attn"),  # noqa: S106 - no password
    _variant("flashvid div", token_selection_method="div"),  # noqa: S106 - no password
    _variant("flashvid event_relevance=clip", token_selection_method="attn_div_v2", event_relevance="clip"),  # noqa: S106
    _variant("flashvid one segment", do_segment=False),
    _variant("flashvid min_segment_num=4", min_segment_num=4),
    _variant("flashvid min_segment_num=8", min_segment_num=8),
    _variant("flashvid min_segment_num=12", min_segment_num=12),
    _variant("flashvid min_segment_num=8 temporal_threshold=0.6", min_segment_num=8, temporal_threshold=0.6),
    _variant("flashvid min_segment_num=8 temporal_threshold=0.95", min_segment_num=8, temporal_threshold=0.95),
    Arm("flashvid int8", OURS, retentions=_VARIANT_RETENTIONS, cache_dtype="int8"),
    *(
        Arm(f"flashvid streamed, segments of {frames}", OURS, retentions=_VARIANT_RETENTIONS, max_segment_frames=frames)
        for frames in (1, 4, 16)
    ),
    Arm("flashvid, published tokens", OURS, retentions=_VARIANT_RETENTIONS, published_tokens=True),
    Arm(
        "attention_topk, published tokens",
        CompressionConfig(method="attention_topk"),
        retentions=_VARIANT_RETENTIONS,
        published_tokens=True,
    ),
)


def ratio_for(tokens: int, total: int) -> float:
    """Return a retention ratio whose exact budget is `tokens` of `total`, independent of rounding."""
    ratio = (tokens - 0.5) / total
    if math.ceil(ratio * total) != tokens:
        raise ValueError(f"{tokens} of {total} tokens")
    return ratio
