"""Facts about the files of a model family, and where its preprocessing, vision and language sides are."""

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
        dtype: The precision to convert weights to; None keeps the stored one.
        device: The device that the side runs on.
        attn_implementation: Attention implementation of transformers; None leaves the choice to transformers.
        min_pixels: Lower bound of a resized frame's area in pixels; None takes the model's own.
        max_pixels: Upper bound of a resized frame's area in pixels; None takes the model's own.
    """

    dtype: torch.dtype | None
    device: torch.device
    attn_implementation: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None


class FramePreprocessor(Protocol):
    """Preprocessing of a family's frames, which needs no weights."""

    def for_video(self, num_frames: int) -> FramePreprocessor:
        """Return the preprocessing for a video of `num_frames` frames whose frames are passed a few at a time.

        In some families the target size depends on the number of frames.
        """

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width in pixels to which frames of this height and width are resized."""

    def token_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return temporal steps, and rows and columns of tokens, of a video of this many frames of this size."""

    def resize(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize frames uint8 `[F, H, W, 3]` to the target size; return the same array if they already have it."""


class VisionSide(Protocol):
    """Vision tower and projector."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision of weights and features."""

    def encode(self, frames: NDArray[np.uint8], timestamps: NDArray[np.float64]) -> VisualFeatures:
        """Encode frames and timestamps that have been checked; see `VideoModel.encode`."""


class Family(ABC):
    """A family of models.

    Instances hold no state. The module of a side is imported when that side is loaded. Subclasses in other packages are
    found through the entry-point group ``flashvid.families``.

    Attributes:
        name: Key of the family, for instance ``qwen2_5_vl``.
        version: Version of a family from another package: a positive integer, part of the fingerprint. Families that
            ship with this package leave it at 0; `VERSIONS` in `pipeline/store/fingerprint.py` covers them.
        architectures: Names in `architectures` of config.json that belong to the family.
        special_tokens: Tokens that every tokenizer of the family must have.
        preprocessor: ``module:Class`` of its `FramePreprocessor`; `load(source, min_pixels=..., max_pixels=...)`.
        vision: ``module:Class`` of its `VisionSide`; `load(source, checkpoint, options)`.
        language: ``module:Class`` of its `LanguageSide`; `load(source, checkpoint, options)`.
        video_token: The placeholder of a video in the chat template.
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
        """Return whether a configuration is of this family, by `architectures`, else by its model type."""
        given = config.get("architectures")
        return any(name in self.architectures for name in given) if given else config.get("model_type") == self.name

    @abstractmethod
    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """Return what is wrong with a configuration, as a sentence; None if it can be run."""

    @abstractmethod
    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """Return the names of the tensors that a part reads from a checkpoint that holds `stored`.

        Names are listed whether or not the checkpoint has them. A stored output head is read even if the configuration
        ties it to the embedding.
        """

    @abstractmethod
    def unused_tensors(self, config: Mapping[str, Any], stored: Iterable[str]) -> tuple[str, ...]:
        """Return the prefixes of tensors that a checkpoint that holds `stored` may contain and no part reads."""

    def text_config(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings of the language side: `text_config`, or the whole configuration if that is missing."""
        nested = config.get("text_config")
        return nested if isinstance(nested, Mapping) else config

    def hidden_size(self, config: Mapping[str, Any]) -> int:
        """Return the width of a visual token in the language model."""
        return int(self.text_config(config)["hidden_size"])

    def num_layers(self, config: Mapping[str, Any]) -> int:
        """Return the number of layers of the decoder."""
        return int(self.text_config(config)["num_hidden_layers"])

    def num_deepstack(self, config: Mapping[str, Any]) -> int:  # noqa: ARG002 - most families have none
        """Return how many decoder layers add features of earlier vision layers to the visual tokens."""
        return 0

    def load_preprocessor(
        self, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None
    ) -> FramePreprocessor:
        """Load the preprocessing of frames without reading weights."""
        loaded: FramePreprocessor = load_object(self.preprocessor).load(
            source, min_pixels=min_pixels, max_pixels=max_pixels
        )
        return loaded

    def load_chat(self, source: ModelSource) -> Chat:
        """Load tokenizer and chat template without reading weights."""
        loaded: Chat = load_object("flashvid.models.chat:ChatPrompt").load(source.path, video_token=self.video_token)
        return loaded

    def load_vision(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> VisionSide:
        """Load the vision side without reading tensors of the language side."""
        loaded: VisionSide = load_object(self.vision).load(source, checkpoint, options)
        return loaded

    def load_language(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> LanguageSide:
        """Load the language side without reading tensors of the vision side."""
        loaded: LanguageSide = load_object(self.language).load(source, checkpoint, options)
        return loaded
