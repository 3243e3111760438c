"""What the families' vision sides share: a video in blocks of temporal steps, and the attention its patches receive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flashvid.engine.types import VisualFeatures
from flashvid.models.family import FramePreprocessor

Preprocessor = TypeVar("Preprocessor", bound=FramePreprocessor)

# Attention never crosses a temporal step, so steps go through the tower in blocks with the same result.
_STEPS_AT_ONCE = 16
# Queries whose probabilities are in memory together: heads x this x patches of one step.
_QUERIES_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class EncodedSteps:
    """What a vision tower makes of some temporal steps.

    Attributes:
        features: `[T, N, D]`.
        scores: `[T, N]` float32.
        grid_hw: Rows and columns of a step, as `VisualFeatures.grid_thw` counts them.
        deepstack: Features of earlier layers, each `[T, N, D]`; none in most families.
    """

    features: Tensor
    scores: Tensor
    grid_hw: tuple[int, int]
    deepstack: tuple[Tensor, ...] = ()


class VisionTower(ABC, Generic[Preprocessor]):
    """Base of the families' vision sides.

    Args:
        preprocessor: Of the family.
        weight: Of the tower: where it is and in which precision is where and in which precision the tower works.
        frames_per_step: Of the temporal steps.
    """

    def __init__(self, preprocessor: Preprocessor, weight: Tensor, frames_per_step: int) -> None:
        self._preprocessor = preprocessor
        self._frames_per_step = frames_per_step
        self._running = Lock()
        self._device = weight.device
        self.dtype = weight.dtype

    @abstractmethod
    def encode_resized(self, frames: NDArray[np.uint8]) -> EncodedSteps:
        """Encode frames uint8 `[F, H, W, 3]` at target size, all at once."""

    def encode(self, frames: NDArray[np.uint8], timestamps: NDArray[np.float64]) -> VisualFeatures:
        """Encode frames uint8 `[F, H, W, 3]`, F at least 1, of any size, with seconds `[F]`.

        Bytes become features block by block: beyond the result, memory does not depend on the number of frames.
        """
        # The size may depend on the number of frames, so it is chosen for all of them before they are parted.
        preprocessor, per_step = self._preprocessor.for_video(len(frames)), self._frames_per_step
        steps = -(-len(frames) // per_step)
        wholes: list[Tensor] = []
        for first in range(0, steps, _STEPS_AT_ONCE):
            end = min(first + _STEPS_AT_ONCE, steps)
            block = self.encode_resized(preprocessor.resize(frames[first * per_step : end * per_step]))
            parts = (block.features, block.scores, *block.deepstack)
            # Joining at the end would hold every feature twice.
            wholes = wholes or [part.new_empty((steps, *part.shape[1:])) for part in parts]
            for whole, part in zip(wholes, parts, strict=True):
                whole[first:end] = part
        features, scores, *deepstack = wholes
        levels = tuple(level.flatten(0, 1) for level in deepstack)
        return VisualFeatures(features, scores, (steps, *block.grid_hw), timestamps, levels)

    @contextmanager
    def _calls_of(self, attention: nn.Module) -> Iterator[dict[str, Any]]:
        """Catch what a module is called with while the tower runs: keywords by name, the rest as `given`."""
        call: dict[str, Any] = {}
        # One clip at a time, or it would be another one's.
        with self._running:
            hook = attention.register_forward_pre_hook(
                lambda _, given, named: call.update(named, given=given), with_kwargs=True
            )
            try:
                yield call
            finally:
                hook.remove()


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
