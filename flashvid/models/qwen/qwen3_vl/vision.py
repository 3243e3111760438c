"""The vision side of Qwen3-VL: tower, projectors, and the attention every token receives (spec 7)."""

from __future__ import annotations

from threading import Lock
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.qwen3_vl.modeling_qwen3_vl import (
    Qwen3VLVisionModel,
)

from flashvid.engine.types import VisualFeatures
from flashvid.models.family import LoadOptions
from flashvid.models.frames import resize_frames
from flashvid.models.qwen.configs import qwen3_vl_configs
from flashvid.models.qwen.qwen3_vl.facts import VISION_PREFIX, vision_tensors
from flashvid.models.qwen.qwen3_vl.preprocess import Qwen3FramePreprocessor
from flashvid.models.qwen.tower import run_tower
from flashvid.models.source import ModelSource
from flashvid.models.vision import EncodedSteps, encode_in_blocks, without_memory
from flashvid.models.weights import Checkpoint

# Attention never crosses a temporal step, so steps go through the tower in blocks with the same result.
_STEPS_AT_ONCE = 16


class Qwen3Vision:
    """Vision tower and projectors."""

    def __init__(self, tower: Qwen3VLVisionModel, preprocessor: Qwen3FramePreprocessor) -> None:
        self._tower = tower
        self._preprocessor = preprocessor
        self._running = Lock()
        self._device = next(tower.parameters()).device
        self.dtype = next(tower.parameters()).dtype

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the tensors of the vision side, and only those.

        Raises:
            ModelLoadError: a configuration or tensors that do not fit.
            ConfigurationError: an attention implementation that there is not, impossible bounds of the area.
        """
        preprocessor = Qwen3FramePreprocessor.load(source, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
        config, _ = qwen3_vl_configs(source, options)
        names = vision_tensors(source.config())
        tower = without_memory(Qwen3VLVisionModel, config)
        checkpoint.fill(tower, checkpoint.read(VISION_PREFIX, names, options.dtype, options.device), "vision side")
        # Its frequencies are computed, not stored, so the module without memory has none.
        tower.rotary_pos_emb = type(tower.rotary_pos_emb)(config).to(options.device)
        return cls(tower.train(False), preprocessor)

    def encode(self, frames: NDArray[np.uint8], timestamps: NDArray[np.float64]) -> VisualFeatures:
        """Frames uint8 `[F, H, W, 3]` of any size, with seconds `[F]`, to visual features with their deepstack."""
        per_step = self._preprocessor.temporal_patch_size
        # The size hangs on the number of frames, so it is chosen for all of them before they are parted.
        size = self._preprocessor.resized_size(frames)
        rows, columns = (side // self._preprocessor.patch_size for side in size)

        def block(first: int, end: int) -> EncodedSteps:
            resized = resize_frames(frames[first * per_step : end * per_step], size)
            return self.encode_patches(*self._preprocessor.patches(resized, self._device))

        steps = -(-len(frames) // per_step)
        found = encode_in_blocks(steps, _STEPS_AT_ONCE, block)
        deepstack = tuple(level.flatten(0, 1) for level in found.deepstack)
        return VisualFeatures(found.features, found.scores, (steps, rows, columns), timestamps, deepstack)

    @torch.no_grad()
    def encode_patches(self, patches: Tensor, grid_thw: tuple[int, int, int]) -> EncodedSteps:
        """Patches to features, scores and deepstack features, all at once.

        Args:
            patches: `[T * rows * columns, P]` floating, as `Qwen3FramePreprocessor.patches` makes them.
            grid_thw: `(T, rows, columns)`.

        Returns:
            Tokens in reading order. A step's scores add up to a quarter, since each is the mean over the patches of a
            token.
        """
        steps = grid_thw[0]
        # Scores are caught while the tower runs: one clip at a time.
        with self._running:
            output, received = run_tower(self._tower, patches.to(self.dtype), grid_thw)
        # The patches of a token stand together, and tokens in reading order: there are no windows.
        scores = received.reshape(steps, -1, self._tower.spatial_merge_unit).mean(dim=-1)
        features, *deepstack = (
            part.reshape(steps, -1, part.shape[-1]) for part in (output.pooler_output, *output.deepstack_features)
        )
        return EncodedSteps(features, scores, tuple(deepstack))
