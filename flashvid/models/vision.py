"""Base of the vision sides: encodes a video block by block, and computes the attention that patches receive."""

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

# Temporal steps per block. Attention never crosses a step, so blocks do not change the result.
_STEPS_AT_ONCE = 16
# Queries per block, whose probabilities are in memory together: heads x this x patches of one step.
_QUERIES_AT_ONCE = 512


@dataclass(frozen=True, eq=False)
class EncodedSteps:
    """Features and scores of some temporal steps.

    Attributes:
        features: `[T, N, D]`, in the precision of the tower.
        scores: `[T, N]` float32.
        grid_hw: Rows and columns of a step, in the unit of `VisualFeatures.grid_thw`.
        deepstack: Features of earlier layers, each `[T, N, D]`; empty in most families.
    """

    features: Tensor
    scores: Tensor
    grid_hw: tuple[int, int]
    deepstack: tuple[Tensor, ...] = ()


class VisionTower(ABC, Generic[Preprocessor]):
    """Base of the families' vision sides.

    Args:
        preprocessor: Preprocessing of the family's frames.
        weight: A weight of the tower, whose device and precision are those of the vision side.
        frames_per_step: Frames per temporal step.
    """

    def __init__(self, preprocessor: Preprocessor, weight: Tensor, frames_per_step: int) -> None:
        self._preprocessor = preprocessor
        self._frames_per_step = frames_per_step
        self._running = Lock()
        self._device = weight.device
        self.dtype = weight.dtype

    @abstractmethod
    def encode_resized(self, frames: NDArray[np.uint8]) -> EncodedSteps:
        """Encode frames uint8 `[F, H, W, 3]` at target size in one block."""

    def encode(self, frames: NDArray[np.uint8], timestamps: NDArray[np.float64]) -> VisualFeatures:
        """Encode frames uint8 `[F, H, W, 3]` of any size, F at least 1, with timestamps `[F]` in seconds.

        Frames are normalised and encoded block by block, so that memory beyond the result does not depend on F.
        """
        # The target size may depend on the number of frames, so it is chosen before the frames are split into blocks.
        preprocessor, per_step = self._preprocessor.for_video(len(frames)), self._frames_per_step
        steps = -(-len(frames) // per_step)
        wholes: list[Tensor] = []
        for first in range(0, steps, _STEPS_AT_ONCE):
            end = min(first + _STEPS_AT_ONCE, steps)
            block = self.encode_resized(preprocessor.resize(frames[first * per_step : end * per_step]))
            parts = (block.features, block.scores, *block.deepstack)
            # Concatenating the blocks at the end would hold every feature twice.
            wholes = wholes or [part.new_empty((steps, *part.shape[1:])) for part in parts]
            for whole, part in zip(wholes, parts, strict=True):
                whole[first:end] = part
        features, scores, *deepstack = wholes
        levels = tuple(level.flatten(0, 1) for level in deepstack)
        return VisualFeatures(features, scores, (steps, *block.grid_hw), timestamps, levels)

    @contextmanager
    def _calls_of(self, attention: nn.Module) -> Iterator[dict[str, Any]]:
        """Capture the arguments of a module while the tower runs: keywords by name, positional ones as `given`."""
        call: dict[str, Any] = {}
        # One clip at a time, or the arguments could be those of another clip.
        with self._running:
            hook = attention.register_forward_pre_hook(
                lambda _, given, named: call.update(named, given=given), with_kwargs=True
            )
            try:
                yield call
            finally:
                hook.remove()


def received_attention(queries: Tensor, keys: Tensor, scaling: float) -> Tensor:
    """Compute the attention that each patch receives within its temporal step (docs/flashvid.md, section 7).

    It is the mean of the softmax probabilities over heads and queries. Queries are taken in blocks, one step after
    another, so that memory is linear in the number of patches.

    Args:
        queries: `[T, heads, P, d]`, floating, after any rotation.
        keys: `[T, heads, P, d]`, in the same dtype.
        scaling: Factor of the products of queries and keys.

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
