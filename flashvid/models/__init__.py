"""Video LLMs as one model handle: `encode` a video, `compress` its tokens, `answer` questions about it.

Every name is imported when it is first used, so that planning and storing wait for neither torch nor transformers.
"""

from typing import TYPE_CHECKING, Any

from flashvid.plugins import load_object

if TYPE_CHECKING:
    from flashvid.engine.generation_config import GenerationConfig
    from flashvid.engine.types import Answer, ClipQuestions, CompressedVideo, ScoredText, VisualFeatures
    from flashvid.models.checks import check_answering
    from flashvid.models.family import FramePreprocessor
    from flashvid.models.loading import load_model, load_preprocessor
    from flashvid.models.resolve import resolve_model
    from flashvid.models.source import ModelSource
    from flashvid.models.video_model import VideoModel

_MODULES = {
    "Answer": "flashvid.engine.types",
    "ClipQuestions": "flashvid.engine.types",
    "CompressedVideo": "flashvid.engine.types",
    "FramePreprocessor": "flashvid.models.family",
    "GenerationConfig": "flashvid.engine.generation_config",
    "ModelSource": "flashvid.models.source",
    "ScoredText": "flashvid.engine.types",
    "VideoModel": "flashvid.models.video_model",
    "VisualFeatures": "flashvid.engine.types",
    "check_answering": "flashvid.models.checks",
    "load_model": "flashvid.models.loading",
    "load_preprocessor": "flashvid.models.loading",
    "resolve_model": "flashvid.models.resolve",
}
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
    if name in _MODULES:
        return load_object(f"{_MODULES[name]}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
