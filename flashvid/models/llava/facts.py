"""The two LLaVA families: one architecture, told apart by how they pool; two layouts of configuration and names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flashvid.models.architectures import names_architecture
from flashvid.models.llava.settings import (
    HUGGING_FACE_ARCHITECTURE,
    ORIGINAL_ARCHITECTURE,
    LlavaSettings,
    Pooling,
    pooling_of,
)
from flashvid.models.llava.tensors import decoder_tensors, find_layout, tower_tensors

if TYPE_CHECKING:
    from flashvid.engine.types import LoadOptions, Part
    from flashvid.models.chat import ChatPrompt
    from flashvid.models.llava.language import LlavaLanguage
    from flashvid.models.llava.preprocess import LlavaFramePreprocessor
    from flashvid.models.llava.vision import LlavaVision
    from flashvid.models.source import ModelSource
    from flashvid.models.weights import Checkpoint


class LlavaFamily:
    """See `flashvid.models.registry.Family`.

    Args:
        name: Of the family.
        pooling: By which its models are told from the other's.
    """

    architectures: tuple[str, ...] = (ORIGINAL_ARCHITECTURE, HUGGING_FACE_ARCHITECTURE)
    # The video's placeholder never reaches the model, so a tokenizer need not have one.
    special_tokens: tuple[str, ...] = ("<|im_start|>", "<|im_end|>")

    def __init__(self, name: str, pooling: Pooling) -> None:
        self.name = name
        self._pooling = pooling

    def recognizes(self, config: Mapping[str, Any]) -> bool:
        """See `Family`; what pools in a third way is left to `check_config` of the first family to refuse."""
        if not names_architecture(config, self.architectures, "llava_onevision"):
            return False
        try:
            return pooling_of(config) == self._pooling
        except ValueError:
            return self._pooling == "bilinear"

    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """The parts of the configuration must be there and of a kind that is run here."""
        try:
            LlavaSettings.parse(config)
        except ValueError as problem:
            return str(problem)
        return None

    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """See `Family`."""
        settings, names, needed = LlavaSettings.parse(config), frozenset(stored), []
        layout = find_layout(names, settings.default_layout)
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
        """See `Family`: the end of the tower, frequencies, and a newline where none is written."""
        settings = LlavaSettings.parse(config)
        layout = find_layout(stored, settings.default_layout)
        of_tower = (layout.tower + name for name in settings.unused_tensors())
        return *of_tower, layout.decoder + "rotary_emb.", layout.newline

    def hidden_size(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return int(LlavaSettings.parse(config).text["hidden_size"])

    def num_layers(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return int(LlavaSettings.parse(config).text["num_hidden_layers"])

    def num_deepstack(self, config: Mapping[str, Any]) -> int:  # noqa: ARG002 - the same for all
        """See `Family`."""
        return 0

    def load_preprocessor(
        self, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None
    ) -> LlavaFramePreprocessor:
        """See `Family`."""
        from flashvid.models.llava.preprocess import LlavaFramePreprocessor

        return LlavaFramePreprocessor.load(source, min_pixels=min_pixels, max_pixels=max_pixels)

    def load_chat(self, source: ModelSource) -> ChatPrompt:
        """See `Family`."""
        from flashvid.models.llava.chat_template import load_chat

        return load_chat(source)

    def load_vision(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> LlavaVision:
        """See `Family`."""
        from flashvid.models.llava.vision import LlavaVision

        return LlavaVision.load(source, checkpoint, options)

    def load_language(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> LlavaLanguage:
        """See `Family`."""
        from flashvid.models.llava.language import LlavaLanguage

        return LlavaLanguage.load(source, checkpoint, options)
