"""What a family of models brings: facts about its files, and where its preprocessing, vision and language sides are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flashvid.engine.types import Chat, LanguageSide, VisualFeatures
from flashvid.models.source import ModelSource
from flashvid.models.weights import Checkpoint
from flashvid.plugins import load_object

if TYPE_CHECKING:
    import torch

Part = Literal["all", "vision", "language"]


@dataclass(frozen=True)
class LoadOptions:
    """How to load a side of a model.

    Attributes:
        dtype: To convert weights to; None keeps the stored.
        device: Where it runs.
        attn_implementation: Transformers' name of one; None for transformers' choice.
        min_pixels: Lower bound of a resized frame's area; the model's own when None.
        max_pixels: Upper bound.
    """

    dtype: torch.dtype | None
    device: torch.device
    attn_implementation: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None


class FramePreprocessor(Protocol):
    """A family's preprocessing of frames: needs no weights."""

    def for_video(self, num_frames: int) -> FramePreprocessor:
        """For frames of a video of so many that are given a few at a time: some families' sizes hang on the number."""

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels to which frames of a given height and width are resized."""

    def token_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Temporal steps, and rows and columns of tokens, of a video of so many frames of that height and width."""

    def resize(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames uint8 `[F, H, W, 3]` at target size; the same array if they have it."""


class VisionSide(Protocol):
    """Vision tower and projector."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and features."""

    def encode(self, frames: NDArray[np.uint8], timestamps: NDArray[np.float64]) -> VisualFeatures:
        """See `VideoModel.encode`; the frames and timestamps have been checked."""


class Family(ABC):
    """A family of models. Instances hold no state, and no module of a side is imported before that side is loaded.

    A subclass in another package is found through the entry-point group ``flashvid.families``.

    Attributes:
        name: Key of the family, for instance ``qwen2_5_vl``.
        version: Of a family from another package: a positive integer, part of the fingerprint. Families that ship with
            this package leave it at 0; `VERSIONS` of `pipeline.store.fingerprint` covers them.
        architectures: Names in `architectures` of a configuration that belong to it.
        special_tokens: What its tokenizers must know.
        preprocessor: ``module:Class`` of its `FramePreprocessor`; `load(source, min_pixels=..., max_pixels=...)`.
        vision: ``module:Class`` of its `VisionSide`; `load(source, checkpoint, options)`.
        language: ``module:Class`` of its `LanguageSide`; `load(source, checkpoint, options)`.
        video_token: The placeholder of a video in its chat template.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 0
    architectures: ClassVar[tuple[str, ...]]
    special_tokens: ClassVar[tuple[str, ...]]
    preprocessor: ClassVar[str]
    vision: ClassVar[str]
    language: ClassVar[str]
    video_token: ClassVar[str]

    def recognizes(self, config: Mapping[str, Any]) -> bool:
        """Whether a configuration is of this family: by `architectures`, or by its model type where it has none."""
        given = config.get("architectures")
        return any(name in self.architectures for name in given) if given else config.get("model_type") == self.name

    @abstractmethod
    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """Return what makes a configuration impossible, as a sentence; None if it is possible."""

    @abstractmethod
    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """Return the tensors that a part reads, under their names in a checkpoint that holds `stored`.

        Names are listed whether or not the checkpoint has them. A stored output head is read, even where the
        configuration says that it is the embedding.
        """

    @abstractmethod
    def unused_tensors(self, config: Mapping[str, Any], stored: Iterable[str]) -> tuple[str, ...]:
        """Return the prefixes of tensors in a checkpoint that holds `stored` that are known and not needed."""

    @abstractmethod
    def hidden_size(self, config: Mapping[str, Any]) -> int:
        """Return the width of a visual token in the language model."""

    @abstractmethod
    def num_layers(self, config: Mapping[str, Any]) -> int:
        """Return the number of layers of the decoder."""

    def num_deepstack(self, config: Mapping[str, Any]) -> int:  # noqa: ARG002 - most families have none
        """Return how many decoder layers add features of earlier vision layers to the visual tokens."""
        return 0

    def load_preprocessor(
        self, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None
    ) -> FramePreprocessor:
        """Load the preprocessing of frames, which needs no weights."""
        loaded: FramePreprocessor = load_object(self.preprocessor).load(
            source, min_pixels=min_pixels, max_pixels=max_pixels
        )
        return loaded

    def load_chat(self, source: ModelSource) -> Chat:
        """Load tokenizer and template, which need no weights."""
        loaded: Chat = load_object("flashvid.models.chat:ChatPrompt").load(source.path, video_token=self.video_token)
        return loaded

    def load_vision(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> VisionSide:
        """Load the vision side; no tensor of the language side is read."""
        loaded: VisionSide = load_object(self.vision).load(source, checkpoint, options)
        return loaded

    def load_language(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> LanguageSide:
        """Load the language side; no tensor of the vision side is read."""
        loaded: LanguageSide = load_object(self.language).load(source, checkpoint, options)
        return loaded
