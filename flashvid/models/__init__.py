"""Video LLMs behind one handle: `encode` a video, `compress` its tokens, `answer` questions about it."""

from flashvid.models.handle import VideoModel, load_model, load_preprocessor
from flashvid.models.sources import ModelSource, resolve_model
from flashvid.models.types import Answer, CompressedVideo, GenerationConfig, VisualFeatures

__all__ = [
    "Answer",
    "CompressedVideo",
    "GenerationConfig",
    "ModelSource",
    "VideoModel",
    "VisualFeatures",
    "load_model",
    "load_preprocessor",
    "resolve_model",
]
