"""Transformers' configurations of the two halves of a LLaVA model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from transformers import PreTrainedConfig, Qwen2Config, SiglipVisionConfig

from flashvid.errors import ModelLoadError
from flashvid.models.family import LoadOptions
from flashvid.models.llava.settings import LlavaSettings
from flashvid.models.source import ModelSource

Config = TypeVar("Config", bound=PreTrainedConfig)


def tower_config(source: ModelSource, settings: LlavaSettings, options: LoadOptions) -> SiglipVisionConfig:
    """Of the vision tower, with the layers that are used and without the pooling head.

    Raises:
        ModelLoadError: transformers refuses it; says why.
    """
    return _config(SiglipVisionConfig, {**settings.vision, "vision_use_head": False}, source, options)


def decoder_config(source: ModelSource, settings: LlavaSettings, options: LoadOptions) -> Qwen2Config:
    """Of the decoder.

    Raises:
        ModelLoadError: transformers refuses it; says why.
    """
    return _config(Qwen2Config, settings.text, source, options)


def _config(kind: type[Config], fields: Mapping[str, Any], source: ModelSource, options: LoadOptions) -> Config:
    chosen = {} if options.attn_implementation is None else {"attn_implementation": options.attn_implementation}
    try:
        return kind.from_dict(dict(fields), **chosen)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"config.json makes no {kind.__name__}: {error}", str(source.path)) from None
