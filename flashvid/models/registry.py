"""The supported model families: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from flashvid.models.llava.family import LlavaFamily
from flashvid.models.qwen.qwen2_5_vl.family import QwenFamily
from flashvid.models.qwen.qwen3_vl.family import Qwen3Family

if TYPE_CHECKING:
    from flashvid.engine.types import FramePreprocessor, LanguageSide, LoadOptions, Part, VisionSide
    from flashvid.models.chat import ChatPrompt
    from flashvid.models.source import ModelSource
    from flashvid.models.weights import Checkpoint


class Family(Protocol):
    """What a family of models must bring along. Instances hold no state; loading imports what it needs.

    Attributes:
        name: Key of the family.
        architectures: Names in `architectures` of a configuration that belong to it.
        special_tokens: What its tokenizers must know.
    """

    name: str
    architectures: tuple[str, ...]
    special_tokens: tuple[str, ...]

    def recognizes(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration is of this family."""

    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """What makes a configuration impossible, as a sentence; None if nothing does."""

    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """What a part reads, under the names it has in a checkpoint that holds `stored`; all need not be there.

        An output head that is stored is read, also where the configuration says that it is the embedding.
        """

    def unused_tensors(self, config: Mapping[str, Any], stored: Iterable[str]) -> tuple[str, ...]:
        """How names begin in a checkpoint that holds `stored` that are known and not needed."""

    def hidden_size(self, config: Mapping[str, Any]) -> int:
        """Width of a visual token in the language model."""

    def num_layers(self, config: Mapping[str, Any]) -> int:
        """Layers of the decoder."""

    def num_deepstack(self, config: Mapping[str, Any]) -> int:
        """Of these, how many add features of earlier vision layers to the visual tokens."""

    def load_preprocessor(
        self, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None
    ) -> FramePreprocessor:
        """Preprocessing, which needs no weights."""

    def load_chat(self, source: ModelSource) -> ChatPrompt:
        """Tokenizer and template, which need none either."""

    def load_vision(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> VisionSide:
        """The vision side; reads no tensor of the other."""

    def load_language(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> LanguageSide:
        """The language side; reads no tensor of the other."""


FAMILIES: tuple[Family, ...] = (
    QwenFamily(),
    Qwen3Family(),
    LlavaFamily("llava_onevision", "bilinear"),
    LlavaFamily("llava_video", "average"),
)


def find_family(config: Mapping[str, Any]) -> Family | None:
    """The family of a model's configuration, by architecture, else by model type; None if it is not supported."""
    return next((family for family in FAMILIES if family.recognizes(config)), None)


def family_named(name: str) -> Family:
    """The family of that name."""
    return next(family for family in FAMILIES if family.name == name)
