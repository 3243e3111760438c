"""Input of a decoder: the part of a prompt that all questions about a video share, and each question's own part."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """A prompt up to its last visual token: the same for every question with the same text before the video.

    Attributes:
        embeddings: `[P, D]`.
        positions: `[R, P]` int64 with R = 3 rows for M-RoPE (time, height, width), else R = 1.
        is_visual: `[P]` bool: the visual tokens.
        is_prunable: `[P]` bool: the tokens that pruning inside the decoder may drop: the visual tokens, and newlines in
            families that count these among them (docs/flashvid.md, sections 6 and 8).
        deepstack: Features added to the visual tokens after each of the first layers, `[number of visual, D]` each.
    """

    embeddings: Tensor
    positions: Tensor
    is_visual: Tensor
    is_prunable: Tensor
    deepstack: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class QuestionSuffix:
    """A question's own part of a prompt: the tokens after the last visual one.

    Attributes:
        ids: S token ids.
        positions: `[R, S]` int64.
        next_position: Position of the first generated token, in every row.
    """

    ids: tuple[int, ...]
    positions: Tensor
    next_position: int


def no_prefix(embeddings: Tensor) -> SharedPrefix:
    """Return the empty prefix of a question without a video, for any family; `embeddings` are `[0, D]`."""
    none = torch.zeros(0, dtype=torch.bool)
    return SharedPrefix(embeddings, torch.zeros(1, 0, dtype=torch.int64), none, none)


def text_alone(ids: tuple[int, ...]) -> QuestionSuffix:
    """Return a whole prompt without a video; its positions count up, equally in all rows."""
    return QuestionSuffix(ids, torch.arange(len(ids)).unsqueeze(0), len(ids))
