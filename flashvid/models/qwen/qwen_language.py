"""Base of the Qwen language sides: loading, and the handling of repeated indices."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from flashvid.engine.decoder import Decoder
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import CompressedVideo
from flashvid.models.chat import ChatPrompt
from flashvid.models.family import LoadOptions
from flashvid.models.modules import read_decoder, transformers_config
from flashvid.models.qwen.qwen_family import HEAD, QwenFamily
from flashvid.models.source import ModelSource
from flashvid.models.weights import Checkpoint


class QwenLanguageBase(ABC):
    """See `flashvid.engine.types.LanguageSide`.

    Attributes:
        family: The facts of the family.
        config_class: Transformers' class of the model's configuration.
        decoder_class: Transformers' class of the decoder.
    """

    family: ClassVar[QwenFamily]
    config_class: ClassVar[type[PreTrainedConfig]]
    decoder_class: ClassVar[type[nn.Module]]

    def __init__(self, decoder: Decoder, chat: ChatPrompt, vision: Any) -> None:  # noqa: ANN401 - of transformers
        self.decoder = decoder
        self.chat = chat
        self.dtype = decoder.dtype
        self._vision = vision

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the tokenizer and the language side, and no other tensor.

        Raises:
            ModelLoadError: The configuration or tensors do not fit, or the tokenizer can't be used.
            ConfigurationError: The attention implementation is unknown.
        """
        stored = source.config()
        config: Any = transformers_config(cls.config_class, stored, source, options)
        chat = ChatPrompt.load(source.path, video_token=cls.family.video_token)
        prefix, names = cls.family.language_prefix(checkpoint.files), cls.family.language_tensors(stored)
        decoder = read_decoder(
            cls.decoder_class, config.text_config, checkpoint, options, prefix=prefix, names=names, head=HEAD
        )
        return cls(Decoder(*decoder), chat, config.vision_config)

    @abstractmethod
    def prefix(self, before: tuple[int, ...], compressed: CompressedVideo) -> SharedPrefix:
        """See `LanguageSide`."""

    @abstractmethod
    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """See `LanguageSide`."""

    def reference_compatible(self) -> Self:
        """Return this side: the published implementation lays out the same prompts."""
        return self


def last_of_equal(indices: Tensor) -> Tensor:
    """Return for each of the ascending indices `[M]` the position of the last index that equals it.

    Indices repeat only in `reference_compatible` compression. The published implementation writes each token to the
    slot of its index: of two tokens with the same index the first is lost, and the second appears twice
    (docs/flashvid.md, section 10).
    """
    return torch.searchsorted(indices, indices, right=True) - 1
