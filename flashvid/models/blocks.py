"""A long video through a vision tower: a few temporal steps at a time, into results that are allocated once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class EncodedSteps:
    """What a vision tower makes of some temporal steps.

    Attributes:
        features: `[T, N, D]`.
        scores: `[T, N]` float32.
        deepstack: Features of earlier layers, each `[T, N, D]`; none in most families.
    """

    features: Tensor
    scores: Tensor
    deepstack: tuple[Tensor, ...] = ()


def encode_in_blocks(num_steps: int, at_once: int, encode: Callable[[int, int], EncodedSteps]) -> EncodedSteps:
    """Encode all steps, some at a time: beyond the result, memory does not depend on the number of steps.

    Args:
        num_steps: T, at least 1.
        at_once: Steps per block.
        encode: Called with the first step of a block and the one behind its last.

    Returns:
        The blocks' results in one piece. No attention crosses a step, so blocks change nothing.
    """
    whole: EncodedSteps | None = None
    for first in range(0, num_steps, at_once):
        end = min(first + at_once, num_steps)
        block = encode(first, end)
        if whole is None:
            # Joining at the end would hold every feature twice.
            whole = EncodedSteps(
                _room(block.features, num_steps),
                _room(block.scores, num_steps),
                tuple(_room(level, num_steps) for level in block.deepstack),
            )
        whole.features[first:end] = block.features
        whole.scores[first:end] = block.scores
        for level, part in zip(whole.deepstack, block.deepstack, strict=True):
            level[first:end] = part
    if whole is None:
        raise ValueError("a video has at least one step")
    return whole


def _room(block: Tensor, num_steps: int) -> Tensor:
    return block.new_empty((num_steps, *block.shape[1:]))
