"""The language side of Qwen2.5-VL: its decoder, and how it lays out a prompt around a video (spec 8)."""

from __future__ import annotations

from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Qwen2_5_VLTextModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

from flashvid.engine.decoder import Decoder
from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
from flashvid.engine.types import CompressedVideo
from flashvid.models.chat import ChatPrompt
from flashvid.models.decoder_weights import read_decoder
from flashvid.models.family import LoadOptions
from flashvid.models.qwen.configs import qwen2_5_vl_configs
from flashvid.models.qwen.qwen2_5_vl.facts import language_prefix, language_tensors
from flashvid.models.qwen.qwen_family import VIDEO_TOKEN
from flashvid.models.source import ModelSource
from flashvid.models.weights import Checkpoint


class QwenLanguage:
    """See `flashvid.engine.types.LanguageSide`."""

    def __init__(self, decoder: Decoder, vision: Qwen2_5_VLVisionConfig, chat: ChatPrompt) -> None:
        self.decoder = decoder
        self.chat = chat
        self.dtype = decoder.dtype
        self._vision = vision

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the tokenizer and the tensors of the language side, and only those.

        Raises:
            ModelLoadError: a configuration or tensors that do not fit, an unusable tokenizer.
            ConfigurationError: an attention implementation that there is not.
        """
        vision, text = qwen2_5_vl_configs(source, options)
        chat = ChatPrompt.load(source.path, video_token=VIDEO_TOKEN)
        stored = source.config()
        decoder = read_decoder(
            Qwen2_5_VLTextModel,
            text,
            checkpoint,
            options,
            prefix=language_prefix(checkpoint.files),
            names=language_tensors(stored),
            head="lm_head.",
            what="language side",
        )
        return cls(Decoder(*decoder), vision, chat)

    def prefix(self, before: tuple[int, ...], compressed: CompressedVideo) -> SharedPrefix:
        """See `LanguageSide`: kept tokens stay where they were in the uncompressed prompt, at positions with gaps."""
        indices = compressed.indices.cpu()
        positions = self._positions(before, 0, compressed)
        kept = torch.cat([torch.arange(len(before)), indices + len(before)])
        embedded = self.decoder.embed(before)
        tokens = compressed.tokens.to(embedded)[_last_of_equal(indices)]
        is_visual = torch.arange(len(kept)) >= len(before)
        return SharedPrefix(torch.cat([embedded, tokens]), positions[:, kept], is_visual, is_visual)

    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """See `LanguageSide`: it stands where it would without compression."""
        positions = self._positions(before, len(after), compressed)
        return QuestionSuffix(after, positions[:, positions.shape[1] - len(after) :], int(positions.max()) + 1)

    def reference_compatible(self) -> Self:
        """See `LanguageSide`: nothing differs."""
        return self

    def _positions(self, before: tuple[int, ...], num_after: int, compressed: CompressedVideo) -> Tensor:
        """`[3, len(before) + T * N + num_after]`: of the prompt without compression."""
        step_s = seconds_per_step(compressed.frame_timestamps, cast("int", self._vision.temporal_patch_size))
        return prompt_positions(
            len(before),
            compressed.grid_thw,
            num_after,
            merge_size=self._vision.spatial_merge_size,
            positions_per_step=step_s * self._vision.tokens_per_second,
        )


def _last_of_equal(indices: Tensor) -> Tensor:
    """For each of the ascending indices `[M]`, where the last one equal to it stands.

    Indices repeat only in `reference_compatible` compression, whose implementation writes every token to its place: of
    two with one place the first is lost, and the second stands there twice (spec 10).
    """
    return torch.searchsorted(indices, indices, right=True) - 1


# Timestamps are off by parts of a millisecond; in positions.
_TICKS = 1e-3


def seconds_per_step(frame_timestamps: NDArray[np.float64], temporal_patch_size: int) -> float:
    """Seconds between temporal steps, from the mean distance of the sampled frames; 1 for a single frame."""
    if len(frame_timestamps) < 2:
        return 1.0
    span = float(frame_timestamps[-1] - frame_timestamps[0])
    return span / (len(frame_timestamps) - 1) * temporal_patch_size


def prompt_positions(
    num_before: int,
    grid_thw: tuple[int, int, int],
    num_after: int,
    *,
    merge_size: int,
    positions_per_step: float,
) -> Tensor:
    """Positions of text, every token of a video, and text.

    Text after the video goes on behind the video's largest position in any row, as the model was trained and as
    transformers 4 did it. Transformers 5.23 goes on behind the largest of height and width alone, which differs for
    videos that last longer than they are wide, so to speak.

    Args:
        num_before: Text tokens before the video.
        grid_thw: Steps, rows and columns of patches.
        num_after: Text tokens after it.
        merge_size: Patches along a token's side.
        positions_per_step: Seconds per step times the model's `tokens_per_second`.

    Returns:
        `[3, num_before + T * N + num_after]` int64.
    """
    steps, rows, columns = grid_thw[0], grid_thw[1] // merge_size, grid_thw[2] // merge_size
    # Truncated, and not rounded before: 1.9999 positions, which container ticks can give for 2, must not count as 1.
    times = (torch.arange(steps, dtype=torch.float64) * positions_per_step + _TICKS).long()
    grid = torch.meshgrid(times, torch.arange(rows), torch.arange(columns), indexing="ij")
    video = torch.stack([axis.flatten() for axis in grid]) + num_before
    before = torch.arange(num_before).expand(3, -1)
    after = torch.arange(num_after).expand(3, -1) + int(video.max()) + 1
    return torch.cat([before, video, after], dim=1)
