"""The language side of Qwen3-VL: a decoder with its head, and prompts around a compressed video."""

from __future__ import annotations

from typing import Self

from torch import Tensor
from transformers import Qwen3VLTextModel

from flashvid.engine.decoder import Decoder
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import CompressedVideo, LoadOptions
from flashvid.errors import InvalidFeaturesError
from flashvid.models.chat import ChatPrompt
from flashvid.models.decoder_weights import read_decoder
from flashvid.models.qwen.qwen3_vl import layout
from flashvid.models.qwen.qwen3_vl.configs import load_configs
from flashvid.models.qwen.qwen3_vl.family import LANGUAGE_PREFIX, VIDEO_TOKEN, deepstack_layers, language_tensors
from flashvid.models.qwen.qwen3_vl.layout import PromptShape
from flashvid.models.source import ModelSource
from flashvid.models.weights import Checkpoint

_START, _END = "<|vision_start|>", "<|vision_end|>"


class Qwen3Language:
    """See `flashvid.engine.types.LanguageSide`."""

    def __init__(
        self, decoder: Decoder, chat: ChatPrompt, *, merge_size: int, num_deepstack: int, keeps_markers: bool = True
    ) -> None:
        self.decoder = decoder
        self.chat = chat
        self.dtype = decoder.dtype
        self._merge_size = merge_size
        self._num_deepstack = num_deepstack
        self._keeps_markers = keeps_markers
        self._start, self._end = chat.split_at_videos(_START + _END)[0]

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the tokenizer and the tensors of the language side, and only those.

        Raises:
            ModelLoadError: a configuration or tensors that do not fit, an unusable tokenizer.
            ConfigurationError: an attention implementation that there is not.
        """
        vision, _ = load_configs(source, options)
        chat = ChatPrompt.load(source.path, video_token=VIDEO_TOKEN)
        decoder = Decoder(*load_decoder(source, checkpoint, options))
        num_deepstack = len(deepstack_layers(source.config()))
        return cls(decoder, chat, merge_size=vision.spatial_merge_size, num_deepstack=num_deepstack)

    def reference_compatible(self) -> Self:
        """See `LanguageSide`: the markers around every step of a compressed video are left out."""
        return type(self)(
            self.decoder,
            self.chat,
            merge_size=self._merge_size,
            num_deepstack=self._num_deepstack,
            keeps_markers=False,
        )

    def prefix(self, before: tuple[int, ...], compressed: CompressedVideo) -> SharedPrefix:
        """What the decoder gets up to the last visual token.

        Args:
            before: Ids before the video, its start marker included.
            compressed: The video, with the deepstack features of its tokens.

        Raises:
            InvalidFeaturesError: deepstack features are missing.
        """
        if len(compressed.deepstack) != self._num_deepstack:
            given = len(compressed.deepstack)
            raise InvalidFeaturesError(
                f"the video needs features of {self._num_deepstack} deepstack layers, not {given}"
            )
        texts = self._texts(before, (), compressed)
        return layout.shared_prefix(texts, compressed, self._shape(compressed), self.decoder.embed)

    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """What the decoder gets behind that; `after` are the ids behind the video, from its end marker on."""
        return layout.question_suffix(self._texts(before, after, compressed), compressed, self._shape(compressed))

    def _shape(self, compressed: CompressedVideo) -> PromptShape:
        # The published implementation drops markers as it drops tokens: a video that is whole keeps them.
        drops = not self._keeps_markers and len(compressed.tokens) < len(compressed.assignment)
        return PromptShape(self._merge_size, frozenset({self._start, self._end}) if drops else frozenset())

    def _texts(
        self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo
    ) -> list[tuple[int, ...]]:
        """Ids around the steps: each stands behind its time, between markers in place of those around the video."""
        seconds = layout.step_seconds(compressed.frame_timestamps, compressed.grid_thw[0])
        times = [self.chat.split_at_videos(f"<{second:.1f} seconds>")[0] for second in seconds]
        return layout.texts_around_steps(before, after, times, start=self._start, end=self._end)


def load_decoder(source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> tuple[Qwen3VLTextModel, Tensor]:
    """The decoder and its output head `[V, D]`; no other tensor is read.

    Raises:
        ModelLoadError: a configuration or tensors that do not fit.
        ConfigurationError: an attention implementation that there is not.
    """
    _, config = load_configs(source, options)
    stored = source.config()
    return read_decoder(
        Qwen3VLTextModel,
        config,
        checkpoint,
        options,
        prefix=LANGUAGE_PREFIX,
        names=language_tensors(stored),
        head="lm_head.",
    )
