"""The language side of Qwen3-VL: a decoder with its head, and prompts around a compressed video."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen3VLTextModel

from flashvid.engine.decoder import Decoder
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import CompressedVideo
from flashvid.errors import InvalidFeaturesError
from flashvid.models.chat import ChatPrompt
from flashvid.models.decoder_weights import read_decoder
from flashvid.models.family import LoadOptions
from flashvid.models.qwen.configs import qwen3_vl_configs
from flashvid.models.qwen.qwen3_vl.facts import LANGUAGE_PREFIX, deepstack_layers, language_tensors
from flashvid.models.qwen.qwen_family import VIDEO_TOKEN
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
        vision, _ = qwen3_vl_configs(source, options)
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
        return shared_prefix(texts, compressed, self._shape(compressed), self.decoder.embed)

    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """What the decoder gets behind that; `after` are the ids behind the video, from its end marker on."""
        return question_suffix(self._texts(before, after, compressed), compressed, self._shape(compressed))

    def _shape(self, compressed: CompressedVideo) -> PromptShape:
        # The published implementation drops markers as it drops tokens: a video that is whole keeps them.
        drops = not self._keeps_markers and len(compressed.tokens) < len(compressed.assignment)
        return PromptShape(self._merge_size, frozenset({self._start, self._end}) if drops else frozenset())

    def _texts(
        self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo
    ) -> list[tuple[int, ...]]:
        """Ids around the steps: each stands behind its time, between markers in place of those around the video."""
        seconds = step_seconds(compressed.frame_timestamps, compressed.grid_thw[0])
        times = [self.chat.split_at_videos(f"<{second:.1f} seconds>")[0] for second in seconds]
        return texts_around_steps(before, after, times, start=self._start, end=self._end)


def load_decoder(source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> tuple[Qwen3VLTextModel, Tensor]:
    """The decoder and its output head `[V, D]`; no other tensor is read.

    Raises:
        ModelLoadError: a configuration or tensors that do not fit.
        ConfigurationError: an attention implementation that there is not.
    """
    _, config = qwen3_vl_configs(source, options)
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


Ids = tuple[int, ...]


@dataclass(frozen=True)
class PromptShape:
    """How prompts are laid out.

    Attributes:
        merge_size: Patches along a token's side.
        dropped: Ids of text that is left out once positions are known: the reference drops the markers around the
            steps of a video, we drop none.
    """

    merge_size: int
    dropped: frozenset[int] = frozenset()


def step_seconds(frame_timestamps: NDArray[np.float64], num_steps: int) -> list[float]:
    """The time of each temporal step: the middle of its first and last frame, as the processor has it."""
    per_step = math.ceil(len(frame_timestamps) / num_steps)
    filled = np.pad(frame_timestamps, (0, num_steps * per_step - len(frame_timestamps)), mode="edge")
    steps = filled.reshape(num_steps, per_step)
    return [float(first + last) / 2 for first, last in zip(steps[:, 0], steps[:, -1], strict=True)]


def texts_around_steps(before: Ids, after: Ids, times: Sequence[Ids], *, start: int, end: int) -> list[Ids]:
    """The text before, between and behind the steps of a video, one more than there are steps.

    Markers stand around every step, and not around the video any more. Times are spelled apart from what is before
    them: that is a marker or, in the published template, a line break, and no token reaches over either.

    Args:
        before: Ids before the video; a start marker at their end is that of the first step.
        after: Ids behind it; an end marker at their beginning is that of the last step.
        times: Ids of each step's time.
        start: The marker before a step.
        end: The marker behind it.
    """
    opening = before[:-1] if before[-1:] == (start,) else before
    closing = after if after[:1] == (end,) else (end, *after)
    leading = [opening, *((end,) for _ in times[1:])]
    return [*((*text, *time, start) for text, time in zip(leading, times, strict=True)), closing]


def positions_of_parts(texts: Sequence[Ids], rows: int, columns: int) -> tuple[list[Tensor], list[Tensor]]:
    """M-RoPE positions of a whole prompt, nothing removed.

    Text counts up in all three rows. A step of `rows` x `columns` tokens has one position in time, and takes as many
    as its longer side.

    Args:
        texts: Ids around the steps, one more than there are steps.
        rows: Of tokens.
        columns: Of tokens.

    Returns:
        Positions `[3, L]` int64 of each text, and `[3, rows * columns]` of each step.
    """
    grid = torch.meshgrid(torch.zeros(1).long(), torch.arange(rows), torch.arange(columns), indexing="ij")
    one_step = torch.stack([axis.flatten() for axis in grid])
    of_texts, of_steps, position = [], [], 0
    for text in texts:
        of_texts.append(torch.arange(position, position + len(text)).expand(3, -1))
        position += len(text)
        of_steps.append(one_step + position)
        position += max(rows, columns)
    return of_texts, of_steps[:-1]


def shared_prefix(
    texts: Sequence[Ids], compressed: CompressedVideo, shape: PromptShape, embed: Callable[[Sequence[int]], Tensor]
) -> SharedPrefix:
    """The prompt up to its last visual token, and the texts of later steps of which nothing is left.

    Args:
        texts: Ids around the steps, one more than there are steps; the last is not part of the prefix.
        compressed: The video.
        shape: How the prompt is laid out.
        embed: Token ids to embeddings `[L, D]`.
    """
    steps, rows, columns = compressed.grid_thw
    rows, columns = rows // shape.merge_size, columns // shape.merge_size
    of_texts, of_steps = positions_of_parts(texts, rows, columns)
    indices = compressed.indices.cpu()
    parts, ids, visual = [], [], []
    for step in range(steps):
        read = [place for place, token in enumerate(texts[step]) if token not in shape.dropped]
        ids += [texts[step][place] for place in read]
        first = step * rows * columns
        kept = indices[(indices >= first) & (indices < first + rows * columns)] - first
        parts += [of_texts[step][:, read], of_steps[step][:, kept]]
        visual += [False] * len(read) + [True] * len(kept)
    text = embed(ids)
    is_visual = torch.tensor(visual)
    embeddings = text.new_empty(len(visual), text.shape[1])
    embeddings[~is_visual] = text
    # Indices repeat only in `reference_compatible` compression: that implementation writes tokens to their places; of
    # two with one place the first is lost, and the second stands there twice (spec 10).
    last_of_equal = torch.searchsorted(indices, indices, right=True) - 1
    embeddings[is_visual] = compressed.tokens.to(text)[last_of_equal]
    positions = torch.cat(parts, dim=1)
    deepstack = tuple(level.to(text) for level in compressed.deepstack)
    return SharedPrefix(embeddings, positions, is_visual, is_visual.clone(), deepstack)


def question_suffix(texts: Sequence[Ids], compressed: CompressedVideo, shape: PromptShape) -> QuestionSuffix:
    """What stands behind the last step, at positions as if nothing had been removed."""
    _, rows, columns = compressed.grid_thw
    of_texts, _ = positions_of_parts(texts, rows // shape.merge_size, columns // shape.merge_size)
    read = [place for place, token in enumerate(texts[-1]) if token not in shape.dropped]
    next_position = sum(map(len, texts)) + (len(texts) - 1) * max(rows, columns) // shape.merge_size
    return QuestionSuffix(tuple(texts[-1][place] for place in read), of_texts[-1][:, read], next_position)
