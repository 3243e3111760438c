"""The two halves of a Qwen vision language model's configuration, typed and checked."""

from __future__ import annotations

from typing import Any, TypeVar

from transformers import (
    PreTrainedConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLTextConfig,
    Qwen3VLConfig,
    Qwen3VLTextConfig,
)
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from flashvid.errors import ModelLoadError
from flashvid.models.family import LoadOptions
from flashvid.models.source import ModelSource

Vision = TypeVar("Vision", bound=PreTrainedConfig)
Text = TypeVar("Text", bound=PreTrainedConfig)


def qwen2_5_vl_configs(
    source: ModelSource, options: LoadOptions
) -> tuple[Qwen2_5_VLVisionConfig, Qwen2_5_VLTextConfig]:
    """Read the vision and the text part of a Qwen2.5-VL configuration; see `_load_halves`."""
    return _load_halves(Qwen2_5_VLConfig, (Qwen2_5_VLVisionConfig, Qwen2_5_VLTextConfig), source, options)


def qwen3_vl_configs(source: ModelSource, options: LoadOptions) -> tuple[Qwen3VLVisionConfig, Qwen3VLTextConfig]:
    """Read the vision and the text part of a Qwen3-VL configuration; see `_load_halves`."""
    return _load_halves(Qwen3VLConfig, (Qwen3VLVisionConfig, Qwen3VLTextConfig), source, options)


def _load_halves(
    kind: type[PreTrainedConfig], halves: tuple[type[Vision], type[Text]], source: ModelSource, options: LoadOptions
) -> tuple[Vision, Text]:
    """Read config.json; both halves get the attention implementation of the options.

    Raises:
        ModelLoadError: transformers refuses it; the message says why.
    """
    chosen: dict[str, Any] = {}
    if options.attn_implementation is not None:
        chosen["attn_implementation"] = options.attn_implementation
    try:
        config: Any = kind.from_pretrained(source.path, local_files_only=True, **chosen)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"config.json makes no {kind.__name__}: {error}", str(source.path)) from None
    vision, text = config.vision_config, config.text_config
    if not isinstance(vision, halves[0]) or not isinstance(text, halves[1]):
        raise ModelLoadError("config.json lacks vision_config or text_config", str(source.path))
    return vision, text
