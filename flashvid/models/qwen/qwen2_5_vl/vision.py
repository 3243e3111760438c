"""The vision side of Qwen2.5-VL: tower, projector, and the attention every token receives (spec 7)."""

from __future__ import annotations

from threading import Lock
from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
)

from flashvid.engine.types import VisualFeatures
from flashvid.models.family import LoadOptions
from flashvid.models.qwen.configs import qwen2_5_vl_configs
from flashvid.models.qwen.qwen2_5_vl.facts import vision_prefix, vision_tensors
from flashvid.models.qwen.qwen2_5_vl.preprocess import QwenFramePreprocessor
from flashvid.models.qwen.tower import run_tower
from flashvid.models.source import ModelSource
from flashvid.models.vision import EncodedSteps, encode_in_blocks, without_memory
from flashvid.models.weights import Checkpoint

# Attention never crosses a temporal step, so steps go through the tower in blocks with the same result.
_STEPS_AT_ONCE = 16


class QwenVision:
    """Vision tower and projector."""

    def __init__(self, tower: Qwen2_5_VisionTransformerPretrainedModel, preprocessor: QwenFramePreprocessor) -> None:
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
        preprocessor = QwenFramePreprocessor.load(source, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
        config, _ = qwen2_5_vl_configs(source, options)
        prefix, names = vision_prefix(checkpoint.files), vision_tensors(source.config())
        tower = without_memory(Qwen2_5_VisionTransformerPretrainedModel, config)
        checkpoint.fill(tower, checkpoint.read(prefix, names, options.dtype, options.device), "vision side")
        # Its frequencies are computed, not stored, so the module without memory has none.
        tower.rotary_pos_emb = type(tower.rotary_pos_emb)(config).to(options.device)
        return cls(cast("Qwen2_5_VisionTransformerPretrainedModel", tower.train(False)), preprocessor)

    def encode(self, frames: NDArray[np.uint8], timestamps: NDArray[np.float64]) -> VisualFeatures:
        """Frames uint8 `[F, H, W, 3]` of any size, with seconds `[F]`, to visual features."""
        per_step = self._preprocessor.temporal_patch_size
        rows, columns = (
            side // self._preprocessor.patch_size for side in self._preprocessor.target_size(*frames.shape[1:3])
        )

        def block(first: int, end: int) -> EncodedSteps:
            # Bytes to patches block by block, too: as floats a long video would fill the device.
            resized = self._preprocessor.resize(frames[first * per_step : end * per_step])
            return EncodedSteps(*self.encode_patches(*self._preprocessor.patches(resized, self._device)))

        steps = -(-len(frames) // per_step)
        found = encode_in_blocks(steps, _STEPS_AT_ONCE, block)
        return VisualFeatures(found.features, found.scores, (steps, rows, columns), timestamps)

    @torch.no_grad()
    def encode_patches(self, patches: Tensor, grid_thw: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Patches to features and scores, all at once.

        Args:
            patches: `[T * rows * columns, P]` floating, as `QwenFramePreprocessor.patches` makes them.
            grid_thw: `(T, rows, columns)`.

        Returns:
            Features `[T, N, D]` and scores `[T, N]` (float32), both in reading order. A step's scores add up to a
            quarter, since each is the mean over the patches of a token.
        """
        steps, rows, columns = grid_thw
        # Scores are caught while the tower runs: one clip at a time.
        with self._running:
            output, received = run_tower(self._tower, patches.to(self.dtype), grid_thw)

        merged = self._tower.spatial_merge_unit
        num_tokens = rows * columns // merged
        # The tower works in window order, the patches of a token together; features come back in reading order.
        in_windows = received.reshape(steps * num_tokens, merged).mean(dim=-1)
        merge_size = self._preprocessor.merge_size
        window = self._tower.window_size // merge_size // self._preprocessor.patch_size
        order = window_order(grid_thw, merge_size=merge_size, window=window).to(in_windows.device)
        scores = torch.empty_like(in_windows)
        scores[order] = in_windows
        features: Tensor = output.pooler_output
        return features.reshape(steps, num_tokens, -1), scores.reshape(steps, num_tokens)


def window_order(grid_thw: tuple[int, int, int], *, merge_size: int, window: int) -> Tensor:
    """Reading-order index of every token in the order in which the tower processes them, window by window.

    Args:
        grid_thw: Steps, rows and columns of patches.
        merge_size: Patches along a token's side.
        window: Tokens along a window's side; windows at the border are smaller.

    Returns:
        `[T * N]` int64.
    """
    steps, rows, columns = grid_thw[0], grid_thw[1] // merge_size, grid_thw[2] // merge_size
    tokens = torch.arange(steps * rows * columns).reshape(steps, rows, columns)
    windows = [
        step[top : top + window, left : left + window].flatten()
        for step in tokens
        for top in range(0, rows, window)
        for left in range(0, columns, window)
    ]
    return torch.cat(windows)
