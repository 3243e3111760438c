"""Video LLMs as one model handle: `encode` a video, `compress` its tokens, `answer` questions about it.

Every name is imported on first use, so that planning and storing do not wait for torch and transformers.
"""

from typing import TYPE_CHECKING, Any

from flashvid.plugins import load_object

if TYPE_CHECKING:
    from flashvid.engine.generation_config import GenerationConfig as GenerationConfig
    from flashvid.engine.types import Answer as Answer
    from flashvid.engine.types import ClipQuestions as ClipQuestions
    from flashvid.engine.types import CompressedVideo as CompressedVideo
    from flashvid.engine.types import ScoredText as ScoredText
    from flashvid.engine.types import VisualFeatures as VisualFeatures
    from flashvid.models.checks import check_answering as check_answering
    from flashvid.models.family import FramePreprocessor as FramePreprocessor
    from flashvid.models.loading import load_model as load_model
    from flashvid.models.loading import load_preprocessor as load_preprocessor
    from flashvid.models.resolve import resolve_model as resolve_model
    from flashvid.models.source import ModelSource as ModelSource
    from flashvid.models.video_model import VideoModel as VideoModel

_MODULES = {
    "flashvid.engine.generation_config": ["GenerationConfig"],
    "flashvid.engine.types": ["Answer", "ClipQuestions", "CompressedVideo", "ScoredText", "VisualFeatures"],
    "flashvid.models.checks": ["check_answering"],
    "flashvid.models.family": ["FramePreprocessor"],
    "flashvid.models.loading": ["load_model", "load_preprocessor"],
    "flashvid.models.resolve": ["resolve_model"],
    "flashvid.models.source": ["ModelSource"],
    "flashvid.models.video_model": ["VideoModel"],
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}
__all__ = sorted(_WHERE)  # noqa: PLE0605 - a list of the keys


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the exported object, typed above
    if name in _WHERE:
        return load_object(f"{_WHERE[name]}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
