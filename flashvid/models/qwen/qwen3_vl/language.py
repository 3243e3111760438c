"""The language side of Qwen3-VL: decoder, and the layout of a prompt around a video (docs/flashvid.md, section 8)."""

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen3VLConfig, Qwen3VLTextModel

from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import CompressedVideo
from flashvid.errors import InvalidFeaturesError
from flashvid.models.qwen.qwen3_vl.facts import Qwen3Family
from flashvid.models.qwen.qwen_language import QwenLanguageBase, last_of_equal

_START, _END = "<|vision_start|>", "<|vision_end|>"
Ids = tuple[int, ...]


class Qwen3Language(QwenLanguageBase):
    """See `QwenLanguageBase`."""

    family = Qwen3Family()
    config_class = Qwen3VLConfig
    decoder_class = Qwen3VLTextModel
    _keeps_markers = True

    def reference_compatible(self) -> Self:
        """Return this side without the markers around the steps of a compressed video (docs/flashvid.md, section 8)."""
        compatible = copy(self)
        compatible._keeps_markers = False
        return compatible

    def prefix(self, before: Ids, compressed: CompressedVideo) -> SharedPrefix:
        """Lay out the prompt up to the last visual token.

        Args:
            before: Ids before the video, its start marker included.
            compressed: The video, with the deepstack features of its tokens.

        Raises:
            InvalidFeaturesError: The video lacks deepstack features of this model's layers.
        """
        needed, given = len(self._vision.deepstack_visual_indexes), len(compressed.deepstack)
        if given != needed:
            raise InvalidFeaturesError(f"the video must have features of {needed} deepstack layers, not {given}")
        texts = self._texts(before, (), compressed)
        embed, merge_size = self.decoder.embed, self._vision.spatial_merge_size
        return shared_prefix(texts, compressed, merge_size, embed, self._dropped(compressed))

    def suffix(self, before: Ids, after: Ids, compressed: CompressedVideo) -> QuestionSuffix:
        """Lay out the prompt after the last visual token; `after` are the ids from the video's end marker on."""
        texts, merge_size = self._texts(before, after, compressed), self._vision.spatial_merge_size
        return question_suffix(texts, compressed, merge_size, self._dropped(compressed))

    def _dropped(self, compressed: CompressedVideo) -> frozenset[int]:
        # The published implementation drops markers only where it compresses, so an uncompressed video keeps them.
        drops = not self._keeps_markers and len(compressed.tokens) < len(compressed.assignment)
        return frozenset(self._markers) if drops else frozenset()

    @cached_property
    def _markers(self) -> Ids:
        return self.chat.split_at_videos(_START + _END)[0]

    def _texts(self, before: Ids, after: Ids, compressed: CompressedVideo) -> list[Ids]:
        """Return the ids around the steps: each step follows its time, between markers of its own."""
        seconds = step_seconds(compressed.frame_timestamps, compressed.grid_thw[0])
        times = [self.chat.split_at_videos(f"<{second:.1f} seconds>")[0] for second in seconds]
        start, end = self._markers
        return texts_around_steps(before, after, times, start=start, end=end)


def step_seconds(frame_timestamps: NDArray[np.float64], num_steps: int) -> list[float]:
    """Return the time of each temporal step in seconds, the mean of its first and last frame, as the processor does."""
    per_step = math.ceil(len(frame_timestamps) / num_steps)
    filled = np.pad(frame_timestamps, (0, num_steps * per_step - len(frame_timestamps)), mode="edge")
    steps = filled.reshape(num_steps, per_step)
    return [float(first + last) / 2 for first, last in zip(steps[:, 0], steps[:, -1], strict=True)]


def texts_around_steps(before: Ids, after: Ids, times: Sequence[Ids], *, start: int, end: int) -> list[Ids]:
    """Return the texts before, between and after the steps of a video, one more than there are steps.

    Markers enclose each step instead of the video. Times are tokenized separately from the text before them, which ends
    in a marker or, in the published template, in a line break: no token spans either.

    Args:
        before: Ids before the video; a start marker at the end is that of the first step.
        after: Ids after the video; an end marker at the beginning is that of the last step.
        times: Ids of each step's time.
        start: The marker before a step.
        end: The marker after a step.
    """
    opening = before[:-1] if before[-1:] == (start,) else before
    closing = after if after[:1] == (end,) else (end, *after)
    leading = [opening, *((end,) for _ in times[1:])]
    return [*((*text, *time, start) for text, time in zip(leading, times, strict=True)), closing]


def positions_of_parts(texts: Sequence[Ids], rows: int, columns: int) -> tuple[list[Tensor], list[Tensor]]:
    """Compute the M-RoPE positions of a whole, uncompressed prompt.

    Text counts up in all three rows. A step of `rows` x `columns` tokens has one temporal position, and advances the
    position by its longer side.

    Args:
        texts: Ids around the steps, one more than there are steps.
        rows: Rows of tokens of a step.
        columns: Columns of tokens of a step.

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
    texts: Sequence[Ids],
    compressed: CompressedVideo,
    merge_size: int,
    embed: Callable[[Sequence[int]], Tensor],
    dropped: frozenset[int] = frozenset(),
) -> SharedPrefix:
    """Lay out the prompt up to its last visual token, and the texts of later steps without kept tokens.

    Args:
        texts: Ids around the steps, one more than there are steps; the last text is not part of the prefix.
        compressed: The video.
        merge_size: Patches along a token's side.
        embed: Function from token ids to embeddings `[L, D]`.
        dropped: Ids of text to leave out after positions are computed: the published implementation drops the markers
            around the steps of a video, this library by default drops no id.
    """
    steps, rows, columns = compressed.grid_thw
    rows, columns = rows // merge_size, columns // merge_size
    of_texts, of_steps = positions_of_parts(texts, rows, columns)
    indices = compressed.indices.cpu()
    parts, ids, visual = [], [], []
    for step in range(steps):
        read = [place for place, token in enumerate(texts[step]) if token not in dropped]
        ids += [texts[step][place] for place in read]
        first = step * rows * columns
        kept = indices[(indices >= first) & (indices < first + rows * columns)] - first
        parts += [of_texts[step][:, read], of_steps[step][:, kept]]
        visual += [False] * len(read) + [True] * len(kept)
    text = embed(ids)
    is_visual = torch.tensor(visual)
    embeddings = text.new_empty(len(visual), text.shape[1])
    embeddings[~is_visual] = text
    embeddings[is_visual] = compressed.tokens.to(text)[last_of_equal(indices)]
    positions = torch.cat(parts, dim=1)
    deepstack = tuple(level.to(text) for level in compressed.deepstack)
    return SharedPrefix(embeddings, positions, is_visual, is_visual.clone(), deepstack)


def question_suffix(
    texts: Sequence[Ids], compressed: CompressedVideo, merge_size: int, dropped: frozenset[int] = frozenset()
) -> QuestionSuffix:
    """Lay out the text after the last step, at the positions of the uncompressed prompt; see `shared_prefix`."""
    _, rows, columns = compressed.grid_thw
    of_texts, _ = positions_of_parts(texts, rows // merge_size, columns // merge_size)
    read = [place for place, token in enumerate(texts[-1]) if token not in dropped]
    next_position = sum(map(len, texts)) + (len(texts) - 1) * max(rows, columns) // merge_size
    return QuestionSuffix(tuple(texts[-1][place] for place in read), of_texts[-1][:, read], next_position)
