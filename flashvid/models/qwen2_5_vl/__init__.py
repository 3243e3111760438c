"""Qwen2.5-VL: preprocessing, vision side, language side."""

from flashvid.models.qwen2_5_vl.language import QwenLanguage
from flashvid.models.qwen2_5_vl.preprocess import QwenFramePreprocessor
from flashvid.models.qwen2_5_vl.vision import QwenVision

__all__ = ["QwenFramePreprocessor", "QwenLanguage", "QwenVision"]
