"""Frames to the square pictures that SigLIP sees, as Hugging Face's LLaVA-OneVision video processor makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashvid.errors import ConfigurationError, ModelLoadError
from flashvid.models.frames import CLIP_MEAN, CLIP_STD, HALF, normalize, resize_frames, stored_settings
from flashvid.models.llava.settings import LlavaSettings, is_hugging_face
from flashvid.models.source import ModelSource

_SIDE = 384


@dataclass(frozen=True)
class LlavaFramePreprocessor:
    """Resizing to one size, whatever the shape of a frame, and normalising.

    Attributes:
        height: Of a resized frame, in pixels.
        width: Of a resized frame.
        tokens_per_side: Rows, and columns, of tokens that the model makes of a frame.
        image_mean: Per channel, of values in 0..1.
        image_std: Per channel.
    """

    height: int
    width: int
    tokens_per_side: int
    # SigLIP's, of the original code; transformers' processor has CLIP's.
    image_mean: tuple[float, ...] = HALF
    image_std: tuple[float, ...] = HALF

    @classmethod
    def load(cls, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """Read a model's settings.

        Raises:
            ModelLoadError: an unreadable file, or a size that is not a height and a width.
            ConfigurationError: bounds of the area were given, and there is nothing to choose.
        """
        if min_pixels is not None or max_pixels is not None:
            raise ConfigurationError(
                "min_pixels and max_pixels are for models with frames of many sizes; LLaVA's have one", str(source.path)
            )
        config = source.config()
        settings = LlavaSettings.parse(config)
        side = settings.vision["image_size"]
        if not is_hugging_face(config):
            return cls(side, side, settings.token_grid)
        stored = stored_settings(source)
        height, width = _height_and_width(stored.get("size") or {"height": _SIDE, "width": _SIDE}, source)
        if (height, width) != (side, side):
            raise ModelLoadError(
                f"frames of {width} x {height} do not fit a tower for {side} x {side}", str(source.path)
            )
        return cls(
            height,
            width,
            settings.token_grid,
            image_mean=tuple(stored.get("image_mean") or CLIP_MEAN),
            image_std=tuple(stored.get("image_std") or CLIP_STD),
        )

    def for_video(self, num_frames: int) -> Self:  # noqa: ARG002 - the same for all
        """The preprocessing of a video's frames that are given a few at a time."""
        return self

    def target_size(self, height: int, width: int) -> tuple[int, int]:  # noqa: ARG002 - the same for all
        """Height and width after resizing."""
        return self.height, self.width

    def token_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:  # noqa: ARG002
        """Temporal steps, and rows and columns of tokens, of a video of so many frames, whatever their size."""
        return num_frames, self.tokens_per_side, self.tokens_per_side

    def resize(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize frames uint8 `[F, H, W, 3]`, bicubic with antialiasing; the same array if they have the size."""
        return resize_frames(frames, (self.height, self.width))

    def pictures(self, frames: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Resized frames uint8 `[F, H, W, 3]` to normalised float32 `[F, 3, H, W]` (`pixel_values_videos`)."""
        return normalize(frames, device, self.image_mean, self.image_std)


def _height_and_width(size: Any, source: ModelSource) -> tuple[int, int]:  # noqa: ANN401 - as JSON has it
    try:
        return int(size["height"]), int(size["width"])
    except (TypeError, KeyError, ValueError):
        raise ModelLoadError(f"the processor's size {size} is no height and width", str(source.path)) from None
