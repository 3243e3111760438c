"""The vision side of Qwen2.5-VL: tower, projector, and the attention every token receives (spec 7)."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    apply_rotary_pos_emb_vision,
)

from flashvid.errors import ModelLoadError
from flashvid.models.qwen2_5_vl.preprocess import QwenFramePreprocessor
from flashvid.models.sources import ModelSource
from flashvid.models.types import VisualFeatures

# Attention never crosses a temporal step, so steps go through the tower in blocks with the same result.
_STEPS_AT_ONCE = 16
# Queries whose probabilities are in memory together: heads x this x patches of one step.
_QUERIES_AT_ONCE = 512


class QwenVision:
    """Vision tower and projector."""

    def __init__(self, tower: Qwen2_5_VisionTransformerPretrainedModel, preprocessor: QwenFramePreprocessor) -> None:
        self._tower = tower
        self._preprocessor = preprocessor
        self._device = next(tower.parameters()).device
        self._dtype = next(tower.parameters()).dtype

    @classmethod
    def load(
        cls,
        source: ModelSource,
        preprocessor: QwenFramePreprocessor,
        *,
        dtype: torch.dtype | None,
        device: torch.device,
    ) -> Self:
        """Read the tensors of the vision side, and only those.

        Raises:
            ModelLoadError: tensors missing or not fitting, or a last block with windowed attention, whose scores would
                not see the whole frame.
        """
        config = Qwen2_5_VLConfig.from_pretrained(source.path).vision_config
        if config.depth - 1 not in config.fullatt_block_indexes:
            raise ModelLoadError("the last vision block must attend to whole frames", str(source.path))
        checkpoint = source.checkpoint()
        prefix = "model.visual." if checkpoint.has_prefix("model.visual.") else "visual."
        with torch.device("meta"):
            tower = Qwen2_5_VisionTransformerPretrainedModel(config)
        checkpoint.fill(tower, checkpoint.read(prefix, dtype, device), "vision side")
        # Its frequencies are computed, not stored, so the module without memory has none.
        tower.rotary_pos_emb = type(tower.rotary_pos_emb)(config).to(device)
        return cls(tower.eval(), preprocessor)

    def encode(self, frames: NDArray[np.uint8], timestamps: NDArray[np.float64]) -> VisualFeatures:
        """Frames uint8 `[F, H, W, 3]` of any size, with seconds `[F]`, to visual features."""
        patches, grid_thw = self._preprocessor.patches(self._preprocessor.resize(frames), self._device)
        features, scores = self.encode_patches(patches, grid_thw)
        return VisualFeatures(features, scores, grid_thw, timestamps)

    @torch.no_grad()
    def encode_patches(self, patches: Tensor, grid_thw: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """Patches `[T * rows * columns, P]` to features `[T, N, D]` and scores `[T, N]` (float32)."""
        steps, rows, columns = grid_thw
        per_step = rows * columns
        features, scores = [], []
        for first in range(0, steps, _STEPS_AT_ONCE):
            block = patches[first * per_step : (first + _STEPS_AT_ONCE) * per_step].to(self._dtype)
            part_features, part_scores = self._encode_block(block, (len(block) // per_step, rows, columns))
            features.append(part_features)
            scores.append(part_scores)
        return torch.cat(features), torch.cat(scores)

    def _encode_block(self, patches: Tensor, grid_thw: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        steps, rows, columns = grid_thw
        captured: dict[str, Any] = {}

        def capture(_: torch.nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            captured.update(hidden=arguments[0], rotary=keywords["position_embeddings"])

        attention = self._tower.blocks[-1].attn
        hook = attention.register_forward_pre_hook(capture, with_kwargs=True)
        try:
            output = self._tower(patches, grid_thw=torch.tensor([grid_thw], device=patches.device))
        finally:
            hook.remove()
        received = _received_attention(attention, captured["hidden"], captured["rotary"], steps)

        merged = self._tower.spatial_merge_unit
        num_tokens = rows * columns // merged
        # The tower works in window order, four patches of a token together; features come back in reading order.
        in_windows = received.reshape(steps * num_tokens, merged).mean(dim=-1)
        order = window_order(
            (steps, rows, columns),
            merge_size=self._tower.spatial_merge_size,
            window=self._tower.window_size // self._tower.spatial_merge_size // self._tower.patch_size,
        ).to(in_windows.device)
        scores = torch.empty_like(in_windows)
        scores[order] = in_windows
        return output.pooler_output.reshape(steps, num_tokens, -1), scores.reshape(steps, num_tokens)


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


def _received_attention(
    attention: torch.nn.Module, hidden: Tensor, rotary: tuple[Tensor, Tensor], steps: int
) -> Tensor:
    """Mean over heads and queries of the attention each patch receives within its step, `[steps, P]` float32.

    From the block's own queries and keys, since no attention implementation returns its probabilities; in blocks of
    queries, so that memory is linear in the number of patches.
    """
    heads = attention.num_heads
    queries, keys, _ = attention.qkv(hidden).reshape(len(hidden), 3, heads, -1).permute(1, 0, 2, 3).unbind(0)
    queries, keys = apply_rotary_pos_emb_vision(queries, keys, *rotary)
    per_step = len(hidden) // steps
    received = []
    for step in range(steps):
        span = slice(step * per_step, (step + 1) * per_step)
        step_keys = keys[span].permute(1, 2, 0)
        total = torch.zeros(per_step, device=hidden.device)
        for block in queries[span].split(_QUERIES_AT_ONCE):
            logits = (block.transpose(0, 1) @ step_keys) * attention.scaling
            total += logits.softmax(dim=-1, dtype=torch.float32).sum(dim=(0, 1))
        received.append(total / (heads * per_step))
    return torch.stack(received)
