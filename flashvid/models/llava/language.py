"""The language side of LLaVA: a Qwen2 decoder with its head, and prompts around a compressed video."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor
from transformers import Qwen2Model

from flashvid.engine.decoder import Decoder
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import CompressedVideo, LoadOptions
from flashvid.models.chat import ChatPrompt
from flashvid.models.decoder_weights import read_decoder
from flashvid.models.llava import layout
from flashvid.models.llava.chat_template import load_chat
from flashvid.models.llava.configs import decoder_config
from flashvid.models.llava.settings import LlavaSettings
from flashvid.models.llava.tensors import decoder_tensors, find_layout
from flashvid.models.source import ModelSource
from flashvid.models.weights import Checkpoint


class LlavaLanguage:
    """See `flashvid.engine.types.LanguageSide`."""

    def __init__(self, decoder: Decoder, newline: Tensor, settings: LlavaSettings, chat: ChatPrompt) -> None:
        self.decoder = decoder
        self.chat = chat
        self.dtype = decoder.dtype
        self._newline = newline
        self._newlines = settings.newlines

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the tokenizer and the tensors of the language side, and only those.

        Raises:
            ModelLoadError: a configuration or tensors that do not fit, an unusable tokenizer.
            ConfigurationError: an attention implementation that there is not.
        """
        settings = LlavaSettings.parse(source.config())
        chat = load_chat(source)
        decoder = Decoder(*load_decoder(source, checkpoint, options))
        return cls(decoder, load_newline(source, checkpoint, options), settings, chat)

    def prefix(self, before: tuple[int, ...], compressed: CompressedVideo) -> SharedPrefix:
        """What the decoder gets up to the video's last token or newline, from the ids before the video."""
        return layout.shared_prefix(self.decoder.embed(before), compressed, self._newline, self._newlines)

    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """What the decoder gets behind that, from the ids before and behind the video."""
        return layout.question_suffix(len(before), after, compressed, self._newlines)

    def reference_compatible(self) -> Self:
        """See `LanguageSide`: nothing differs."""
        return self


def load_decoder(source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> tuple[Qwen2Model, Tensor]:
    """The decoder and its output head `[V, D]`; no other tensor is read.

    Raises:
        ModelLoadError: a configuration or tensors that do not fit.
        ConfigurationError: an attention implementation that there is not.
    """
    settings = LlavaSettings.parse(source.config())
    layout = find_layout(checkpoint.files, settings.default_layout)
    config = decoder_config(source, settings, options)
    return read_decoder(
        Qwen2Model,
        config,
        checkpoint,
        options,
        prefix=layout.decoder,
        names=decoder_tensors(config.num_hidden_layers),
        head=layout.head,
    )


def load_newline(source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Tensor:
    """The newline's embedding `[D]`; an empty tensor for a model without newlines."""
    settings = LlavaSettings.parse(source.config())
    if settings.newlines == "no_token":
        return torch.empty(0, device=options.device)
    name = find_layout(checkpoint.files, settings.default_layout).newline
    return checkpoint.read("", [name], options.dtype, options.device)[name]
