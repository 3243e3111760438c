"""The two halves of a Qwen2.5-VL configuration."""

from __future__ import annotations

from transformers import Qwen2_5_VLConfig, Qwen2_5_VLTextConfig
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

from flashvid.engine.types import LoadOptions
from flashvid.models.qwen.configs import load_halves
from flashvid.models.source import ModelSource


def load_configs(source: ModelSource, options: LoadOptions) -> tuple[Qwen2_5_VLVisionConfig, Qwen2_5_VLTextConfig]:
    """See `load_halves`."""
    return load_halves(Qwen2_5_VLConfig, (Qwen2_5_VLVisionConfig, Qwen2_5_VLTextConfig), source, options)
