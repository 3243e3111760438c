"""The language side of Qwen2.5-VL: decoder, and the layout of a prompt around a video (docs/flashvid.md, section 8)."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLTextModel

from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import CompressedVideo
from flashvid.models.qwen.qwen2_5_vl.facts import Qwen2_5Family
from flashvid.models.qwen.qwen_language import QwenLanguageBase, last_of_equal

# Added to temporal positions: container timestamps are off by fractions of a millisecond.
_TICKS = 1e-3


class QwenLanguage(QwenLanguageBase):
    """See `QwenLanguageBase`."""

    family = Qwen2_5Family()
    config_class = Qwen2_5_VLConfig
    decoder_class = Qwen2_5_VLTextModel

    def prefix(self, before: tuple[int, ...], compressed: CompressedVideo) -> SharedPrefix:
        """See `LanguageSide`: kept tokens retain their positions in the uncompressed prompt, with gaps."""
        indices = compressed.indices.cpu()
        positions = self._positions(before, 0, compressed)
        kept = torch.cat([torch.arange(len(before)), indices + len(before)])
        embedded = self.decoder.embed(before)
        tokens = compressed.tokens.to(embedded)[last_of_equal(indices)]
        is_visual = torch.arange(len(kept)) >= len(before)
        return SharedPrefix(torch.cat([embedded, tokens]), positions[:, kept], is_visual, is_visual)

    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """See `LanguageSide`: positions are those of the uncompressed prompt."""
        positions = self._positions(before, len(after), compressed)
        return QuestionSuffix(after, positions[:, positions.shape[1] - len(after) :], int(positions.max()) + 1)

    def _positions(self, before: tuple[int, ...], num_after: int, compressed: CompressedVideo) -> Tensor:
        """Return the positions of the uncompressed prompt, `[3, len(before) + T * N + num_after]`."""
        step_s = seconds_per_step(compressed.frame_timestamps, self._vision.temporal_patch_size)
        return prompt_positions(
            len(before),
            compressed.grid_thw,
            num_after,
            merge_size=self._vision.spatial_merge_size,
            positions_per_step=step_s * self._vision.tokens_per_second,
        )


def seconds_per_step(frame_timestamps: NDArray[np.float64], temporal_patch_size: int) -> float:
    """Return the seconds between temporal steps, from the mean distance of the sampled frames; 1 for a single frame."""
    if len(frame_timestamps) < 2:
        return 1.0
    span = float(frame_timestamps[-1] - frame_timestamps[0])
    return span / (len(frame_timestamps) - 1) * temporal_patch_size


def prompt_positions(
    num_before: int, grid_thw: tuple[int, int, int], num_after: int, *, merge_size: int, positions_per_step: float
) -> Tensor:
    """Compute the M-RoPE positions of text, every token of a video, and text.

    Text after the video continues after the largest position of the video in any row, as in training and in
    transformers 4. Transformers 5.23 continues after the largest of height and width alone, which differs for videos
    whose temporal positions exceed both (docs/families.md).

    Args:
        num_before: Number of text tokens before the video.
        grid_thw: Steps, rows and columns of patches.
        num_after: Number of text tokens after the video.
        merge_size: Patches along a token's side.
        positions_per_step: Seconds per step times the model's `tokens_per_second`.

    Returns:
        `[3, num_before + T * N + num_after]` int64.
    """
    steps, rows, columns = grid_thw[0], grid_thw[1] // merge_size, grid_thw[2] // merge_size
    # Truncation must not turn 1.9999, which container timestamps can yield for 2, into 1.
    times = (torch.arange(steps, dtype=torch.float64) * positions_per_step + _TICKS).long()
    grid = torch.meshgrid(times, torch.arange(rows), torch.arange(columns), indexing="ij")
    video = torch.stack([axis.flatten() for axis in grid]) + num_before
    before = torch.arange(num_before).expand(3, -1)
    after = torch.arange(num_after).expand(3, -1) + int(video.max()) + 1
    return torch.cat([before, video, after], dim=1)
