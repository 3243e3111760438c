"""What vision towers share: modules without memory, blocks of temporal steps, and the attention patches receive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from flashvid.errors import ConfigurationError

Module = TypeVar("Module", bound=torch.nn.Module)

# Queries whose probabilities are in memory together: heads x this x patches of one step.
_QUERIES_AT_ONCE = 512


def received_attention(queries: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Mean over heads and queries of the attention each patch receives within its temporal step (spec 7).

    In blocks of queries, one step after another, so that memory is linear in the number of patches.

    Args:
        queries: `[T, heads, P, d]`, floating, after any rotation.
        keys: `[T, heads, P, d]`.
        scaling: Of the products of the two.

    Returns:
        `[T, P]` float32; each step adds up to 1.
    """
    steps, heads, num_patches, _ = queries.shape
    received = torch.zeros(steps, num_patches, device=queries.device)
    for step in range(steps):
        step_keys = keys[step].transpose(-1, -2)
        for block in torch.split(queries[step], _QUERIES_AT_ONCE, dim=1):
            logits = (block @ step_keys).mul_(scaling)
            received[step] += logits.softmax(dim=-1, dtype=torch.float32).sum(dim=(0, 1))
    return received / (heads * num_patches)


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


def without_memory(kind: Callable[[Any], Module], config: object) -> Module:
    """A module whose parameters have shapes and no memory: nothing is allocated twice, nothing drawn at random.

    Raises:
        ConfigurationError: an attention implementation that is unknown or not installed.
    """
    try:
        with torch.device("meta"):
            return kind(config)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"the model can't be built as asked: {str(error).splitlines()[0]}") from None
