"""The two halves of a Qwen3-VL configuration."""

from __future__ import annotations

from transformers import Qwen3VLConfig, Qwen3VLTextConfig
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig

from flashvid.engine.types import LoadOptions
from flashvid.models.qwen.configs import load_halves
from flashvid.models.source import ModelSource


def load_configs(source: ModelSource, options: LoadOptions) -> tuple[Qwen3VLVisionConfig, Qwen3VLTextConfig]:
    """See `load_halves`."""
    return load_halves(Qwen3VLConfig, (Qwen3VLVisionConfig, Qwen3VLTextConfig), source, options)
