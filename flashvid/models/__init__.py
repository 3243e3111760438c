"""Video LLMs behind one handle: `encode` a video, `compress` its tokens, `answer` questions about it.

What needs torch is loaded when it is first used; transformers only with a model.
"""

from typing import TYPE_CHECKING, Any

from flashvid.engine.types import (
    Answer,
    ClipQuestions,
    CompressedVideo,
    FramePreprocessor,
    GenerationConfig,
    ScoredText,
    VisualFeatures,
)
from flashvid.models.checks import check_answering
from flashvid.models.source import ModelSource, resolve_model

if TYPE_CHECKING:
    from flashvid.models.loading import load_model, load_preprocessor
    from flashvid.models.video_model import VideoModel

__all__ = [
    "Answer",
    "ClipQuestions",
    "CompressedVideo",
    "FramePreprocessor",
    "GenerationConfig",
    "ModelSource",
    "ScoredText",
    "VideoModel",
    "VisualFeatures",
    "check_answering",
    "load_model",
    "load_preprocessor",
    "resolve_model",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the exported object, typed above
    if name in ("VideoModel", "load_model", "load_preprocessor"):
        from flashvid.models import loading

        return getattr(loading, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
