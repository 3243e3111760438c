"""The vision side of Qwen3-VL, whose tower has no windows and returns features of earlier layers."""

from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from flashvid.models.qwen.qwen3_vl.facts import Qwen3Family
from flashvid.models.qwen.qwen3_vl.preprocess import Qwen3FramePreprocessor
from flashvid.models.qwen.qwen_vision import QwenVisionBase


class Qwen3Vision(QwenVisionBase):
    """See `QwenVisionBase`."""

    family = Qwen3Family()
    config_class = Qwen3VLConfig
    tower_class = Qwen3VLVisionModel
    preprocessor_class = Qwen3FramePreprocessor
