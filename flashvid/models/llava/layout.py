"""How a LLaVA decoder reads a video: tokens and newlines in place of a placeholder, no gaps in positions (spec 8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import CompressedVideo
from flashvid.models.llava.settings import Newlines


def shared_prefix(before: Tensor, compressed: CompressedVideo, newline: Tensor, newlines: Newlines) -> SharedPrefix:
    """The prompt up to the video's last token or newline.

    Args:
        before: `[B, D]`: embeddings of the text before the video.
        compressed: The video; its grid counts tokens.
        newline: `[D]`: the newline's embedding.
        newlines: Where they stand. One behind the video is not prunable, those behind every frame are.
    """
    kept = len(compressed.tokens)
    steps = compressed.grid_thw[0]
    if newlines == "frame":
        step_of = compressed.indices.cpu() // math.prod(compressed.grid_thw[1:])
        per_step = torch.bincount(step_of, minlength=steps)
        # A frame of which nothing is left keeps its newline.
        places = per_step.cumsum(0) + torch.arange(steps)
        is_newline = torch.zeros(kept + steps, dtype=torch.bool)
        is_newline[places] = True
    else:
        is_newline = torch.zeros(kept + (newlines == "one_token"), dtype=torch.bool)
        is_newline[kept:] = True
    video = before.new_empty(len(is_newline), before.shape[1])
    video[~is_newline] = compressed.tokens.to(before)
    video[is_newline] = newline.to(before)

    text = torch.zeros(len(before), dtype=torch.bool)
    is_visual = torch.cat([text, ~is_newline])
    is_prunable = torch.cat([text, ~is_newline | (newlines == "frame")])
    # What is removed leaves no gap: the decoder sees a shorter prompt.
    positions = torch.arange(len(is_visual)).unsqueeze(0)
    return SharedPrefix(torch.cat([before, video]), positions, is_visual, is_prunable)


def question_suffix(
    before: int, after: tuple[int, ...], compressed: CompressedVideo, newlines: Newlines
) -> QuestionSuffix:
    """A question's ids behind the video, at positions that go on there.

    Args:
        before: Tokens of text before the video.
        after: The ids.
        compressed: The video.
        newlines: Where newlines stand.
    """
    added = {"one_token": 1, "frame": compressed.grid_thw[0], "no_token": 0}[newlines]
    first = before + len(compressed.tokens) + added
    return QuestionSuffix(after, torch.arange(first, first + len(after)).unsqueeze(0), first + len(after))
