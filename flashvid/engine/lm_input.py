"""What a decoder reads: the part of a prompt that all questions about a video share, and each question's own part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """A prompt from its first token to its last visual one: the same for every question asked in the same words before.

    Attributes:
        embeddings: `[P, D]`.
        positions: `[R, P]` int64, of R = 3 rows for M-RoPE (time, height, width), else of 1.
        is_visual: `[P]` bool: which of them are visual tokens.
        is_prunable: `[P]` bool: which of them pruning inside the decoder may drop (spec 6, 8): the visual tokens, and
            the newlines of families that count them among these.
        deepstack: What is added to the visual tokens behind each of the first layers, each `[number of visual, D]`.
    """

    embeddings: Tensor
    positions: Tensor
    is_visual: Tensor
    is_prunable: Tensor
    deepstack: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class QuestionSuffix:
    """A question's own part of a prompt: what stands behind the last visual token.

    Attributes:
        ids: S token ids.
        positions: `[R, S]` int64.
        next_position: Of the first generated token, in every row.
    """

    ids: tuple[int, ...]
    positions: Tensor
    next_position: int


def no_prefix(embeddings: Tensor) -> SharedPrefix:
    """What stands before a question about no video, the same for every family; `embeddings` are `[0, D]`."""
    none = torch.zeros(0, dtype=torch.bool)
    return SharedPrefix(embeddings, torch.zeros(1, 0, dtype=torch.int64), none, none)


def text_alone(ids: tuple[int, ...]) -> QuestionSuffix:
    """A whole prompt without a video: its positions count up, in all rows alike."""
    return QuestionSuffix(ids, torch.arange(len(ids)).unsqueeze(0), len(ids))
