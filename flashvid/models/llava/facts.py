"""Facts about the LLaVA families, which share an architecture and differ in how they pool."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from flashvid.engine.types import Chat
from flashvid.models.family import Family, Part
from flashvid.models.llava.layouts import tower_tensors
from flashvid.models.llava.settings import (
    HUGGING_FACE_ARCHITECTURE,
    ORIGINAL_ARCHITECTURE,
    LlavaSettings,
    Pooling,
    pooling_of,
)
from flashvid.models.source import ModelSource
from flashvid.models.tensors import decoder_tensors
from flashvid.plugins import load_object

_PACKAGE = "flashvid.models.llava"


class LlavaFamily(Family):
    """See `flashvid.models.family.Family`.

    Attributes:
        pooling: How the models of this family pool, which is how configurations are assigned to a family.
    """

    pooling: ClassVar[Pooling]
    architectures = (ORIGINAL_ARCHITECTURE, HUGGING_FACE_ARCHITECTURE)
    # Tokenizers may lack the placeholder of a video: it never reaches the model.
    special_tokens = ("<|im_start|>", "<|im_end|>")
    preprocessor = f"{_PACKAGE}.preprocess:LlavaFramePreprocessor"
    vision = f"{_PACKAGE}.vision:LlavaVision"
    language = f"{_PACKAGE}.language:LlavaLanguage"

    def recognizes(self, config: Mapping[str, Any]) -> bool:
        """See `Family`; LLaVA-OneVision takes an unknown pooling, which `check_config` then refuses."""
        given = config.get("architectures")
        if not (set(given) & set(self.architectures) if given else config.get("model_type") == "llava_onevision"):
            return False
        try:
            return pooling_of(config) == self.pooling
        except ValueError:
            return self.pooling == "bilinear"

    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """See `Family`; the configuration must describe a SigLIP tower and a Qwen2 decoder."""
        try:
            LlavaSettings.parse(config)
        except ValueError as problem:
            return str(problem)
        return None

    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """See `Family`."""
        settings, names, needed = LlavaSettings.parse(config), frozenset(stored), []
        layout = settings.layout(names)
        if part != "language":
            needed += [layout.tower + name for name in tower_tensors(settings.vision["num_hidden_layers"])]
            needed += [layout.projector + name for name in layout.projector_tensors()]
        if part != "vision":
            needed += [layout.decoder + name for name in decoder_tensors(settings.text["num_hidden_layers"])]
            needed += [] if settings.newlines == "no_token" else [layout.newline]
            head = layout.head + "weight"
            needed += [] if settings.tied and head not in names else [head]
        return needed

    def unused_tensors(self, config: Mapping[str, Any], stored: Iterable[str]) -> tuple[str, ...]:
        """See `Family`: the end of the tower, the frequencies, and the newline of models that do not use one."""
        settings = LlavaSettings.parse(config)
        layout = settings.layout(stored)
        of_tower = (layout.tower + name for name in settings.unused_tensors())
        return *of_tower, layout.decoder + "rotary_emb.", layout.newline

    def text_config(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `Family`."""
        return LlavaSettings.parse(config).text

    def load_chat(self, source: ModelSource) -> Chat:
        """See `Family`."""
        loaded: Chat = load_object(f"{_PACKAGE}.language:load_chat")(source)
        return loaded


class LlavaOnevisionFamily(LlavaFamily):
    """LLaVA-OneVision."""

    name = "llava_onevision"
    pooling = "bilinear"


class LlavaVideoFamily(LlavaFamily):
    """LLaVA-Video."""

    name = "llava_video"
    pooling = "average"
