"""The language side of Qwen3-VL: a decoder with its head, and prompts around a compressed video."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import Qwen3VLTextModel

from flashvid.errors import ConfigurationError
from flashvid.models.lm_input import QuestionSuffix, SharedPrefix
from flashvid.models.modules import without_memory
from flashvid.models.prompt import ChatPrompt
from flashvid.models.qwen3_vl import prompts
from flashvid.models.qwen3_vl.configs import load_configs
from flashvid.models.qwen3_vl.family import LANGUAGE_PREFIX, is_tied, language_tensors
from flashvid.models.qwen3_vl.prompts import PromptShape
from flashvid.models.sources import ModelSource
from flashvid.models.types import Answer, CompressedVideo, GenerationConfig, LoadOptions
from flashvid.models.weights import Checkpoint

_START, _VIDEO, _END = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"


class Qwen3Language:
    """Decoder, output head and tokenizer.

    Attributes:
        decoder: The decoder, without its head.
        head: `[V, D]`: the output head.
        chat: Tokenizer and template.
    """

    def __init__(self, decoder: Qwen3VLTextModel, head: Tensor, chat: ChatPrompt, *, merge_size: int) -> None:
        self.decoder = decoder
        self.head = head
        self.chat = chat
        self.dtype = head.dtype
        self._shape = PromptShape(merge_size)
        markers = chat.split_at_videos(_START + _END)[0]
        self._reference_shape = PromptShape(merge_size, dropped=frozenset(markers))

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the tokenizer and the tensors of the language side, and only those.

        Raises:
            ModelLoadError: a configuration or tensors that do not fit, an unusable tokenizer.
            ConfigurationError: an attention implementation that there is not.
        """
        vision, _ = load_configs(source, options)
        chat = ChatPrompt.load(source.path, video_token=_VIDEO)
        decoder, head = load_decoder(source, checkpoint, options)
        return cls(decoder, head, chat, merge_size=vision.spatial_merge_size)

    def spell(self, question: str, system_prompt: str, compressed: CompressedVideo) -> tuple[tuple[int, ...], ...]:
        """Token ids of a question's prompt around the steps of the video, one run more than there are steps.

        Each step stands behind its time, between markers of its own: they replace those around the placeholder.

        Raises:
            ConfigurationError: the template does not place exactly one video.
        """
        text = self.chat.render(question, system_prompt)
        if text.count(_VIDEO) != 1:
            raise ConfigurationError(f"the chat template places {text.count(_VIDEO)} videos, not 1")
        seconds = prompts.step_seconds(compressed.frame_timestamps, compressed.grid_thw[0])
        steps = "".join(f"<{second:.1f} seconds>{_START}{_VIDEO}{_END}" for second in seconds)
        marked = _START + _VIDEO + _END
        return self.chat.split_at_videos(text.replace(marked if marked in text else _VIDEO, steps))

    def shared_prefix(
        self,
        ids: Sequence[tuple[int, ...]],
        compressed: CompressedVideo,
        *,
        reference_compatible: bool = False,
    ) -> SharedPrefix:
        """What questions whose ids agree up to the last step share.

        Args:
            ids: From `spell`.
            compressed: The video.
            reference_compatible: Drop the markers around every step, as the published implementation does.
        """
        shape = self._reference_shape if reference_compatible else self._shape
        return prompts.shared_prefix(ids, compressed, shape, self.embed)

    def question_suffix(
        self,
        ids: Sequence[tuple[int, ...]],
        compressed: CompressedVideo,
        *,
        reference_compatible: bool = False,
    ) -> QuestionSuffix:
        """A question's own part, behind what it shares; arguments as of `shared_prefix`."""
        shape = self._reference_shape if reference_compatible else self._shape
        return prompts.question_suffix(ids, compressed, shape)

    @torch.no_grad()
    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embeddings `[L, D]` of L token ids."""
        embedded: Tensor = self.decoder.embed_tokens(torch.tensor(ids, dtype=torch.int64, device=self.head.device))
        return embedded

    def answer(
        self,
        compressed: CompressedVideo,  # noqa: ARG002 - until the engine is there
        questions: Sequence[str],  # noqa: ARG002
        generation: GenerationConfig,  # noqa: ARG002
    ) -> list[Answer]:
        """See `VideoModel.answer`.

        Raises:
            ConfigurationError: always; the decoder engine does not run this family yet.
        """
        raise ConfigurationError("Qwen3-VL models encode and compress; answering with them is not there yet")


def load_decoder(source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> tuple[Qwen3VLTextModel, Tensor]:
    """The decoder and its output head `[V, D]`; no other tensor is read.

    Raises:
        ModelLoadError: a configuration or tensors that do not fit.
        ConfigurationError: an attention implementation that there is not.
    """
    _, config = load_configs(source, options)
    stored = source.config()
    names = language_tensors(stored)
    checkpoint.refuse_unexpected(LANGUAGE_PREFIX, names, "decoder", unused=("rotary_emb.",))
    decoder = without_memory(Qwen3VLTextModel, config)
    checkpoint.fill(decoder, checkpoint.read(LANGUAGE_PREFIX, names, options.dtype, options.device), "decoder")
    # Its frequencies are computed, not stored, so the module without memory has none.
    decoder.rotary_emb = type(decoder.rotary_emb)(cast("Any", config)).to(options.device)
    head = nn.Linear(config.hidden_size, config.vocab_size, bias=False, device="meta")
    if is_tied(stored):
        weight = {"weight": decoder.embed_tokens.weight}
    else:
        weight = checkpoint.read("lm_head.", ["weight"], options.dtype, options.device)
    checkpoint.fill(head, weight, "output head")
    return decoder.train(False), head.weight.detach()
