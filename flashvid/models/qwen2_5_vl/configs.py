"""The two halves of a Qwen2.5-VL configuration, typed and checked."""

from __future__ import annotations

from typing import Any

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

from flashvid.errors import ModelLoadError
from flashvid.models.sources import ModelSource
from flashvid.models.types import LoadOptions


def load_configs(source: ModelSource, options: LoadOptions) -> tuple[Qwen2_5_VLVisionConfig, Qwen2_5_VLTextConfig]:
    """Read config.json; both halves get the attention implementation that was asked for.

    Raises:
        ModelLoadError: transformers refuses it; says why.
    """
    chosen: dict[str, Any] = {}
    if options.attn_implementation is not None:
        chosen["attn_implementation"] = options.attn_implementation
    try:
        config = Qwen2_5_VLConfig.from_pretrained(source.path, local_files_only=True, **chosen)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"config.json is no Qwen2.5-VL configuration: {error}", str(source.path)) from None
    vision, text = config.vision_config, config.text_config
    if not isinstance(vision, Qwen2_5_VLVisionConfig) or not isinstance(text, Qwen2_5_VLTextConfig):
        raise ModelLoadError("config.json lacks vision_config or text_config", str(source.path))
    return vision, text
