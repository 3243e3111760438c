"""The vision side of Qwen2.5-VL, whose tower processes tokens window by window."""

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from flashvid.models.qwen.qwen2_5_vl.facts import Qwen2_5Family
from flashvid.models.qwen.qwen_preprocess import QwenFramePreprocessor
from flashvid.models.qwen.qwen_vision import QwenVisionBase


class QwenVision(QwenVisionBase):
    """See `QwenVisionBase`."""

    family = Qwen2_5Family()
    config_class = Qwen2_5_VLConfig
    tower_class = Qwen2_5_VisionTransformerPretrainedModel
    preprocessor_class = QwenFramePreprocessor

    def in_reading_order(self, scores: Tensor, grid_thw: tuple[int, int, int]) -> Tensor:
        """See `QwenVisionBase`: the tower's order is window by window."""
        merge_size = self._preprocessor.merge_size
        window = self._tower.window_size // merge_size // self._preprocessor.patch_size
        order = window_order(grid_thw, merge_size=merge_size, window=window).to(scores.device)
        ordered = torch.empty_like(scores)
        ordered[order] = scores
        return ordered


def window_order(grid_thw: tuple[int, int, int], *, merge_size: int, window: int) -> Tensor:
    """Return the reading-order index of each token, in the tower's order.

    Args:
        grid_thw: Steps, rows and columns of patches.
        merge_size: Patches along a token's side.
        window: Tokens along a window's side; windows at the border may be smaller.

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
