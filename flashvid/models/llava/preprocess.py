"""Resize frames to the squares that SigLIP reads, as transformers' LLaVA-OneVision video processor does."""

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
    """Resizes frames of any shape to one size, and normalises them.

    Attributes:
        height: Height of a resized frame in pixels.
        width: Width of a resized frame in pixels.
        tokens_per_side: Tokens along each side of a frame.
        image_mean: Mean per channel, of values in 0..1.
        image_std: Standard deviation per channel, of values in 0..1.
    """

    height: int
    width: int
    tokens_per_side: int
    # The original code uses SigLIP's values, transformers' processor CLIP's.
    image_mean: tuple[float, ...] = HALF
    image_std: tuple[float, ...] = HALF

    @classmethod
    def load(cls, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """Read a model's settings.

        Raises:
            ModelLoadError: A file can't be read, or the size in it does not fit the tower.
            ConfigurationError: Bounds of the area are set, but these models have only one size.
        """
        if min_pixels is not None or max_pixels is not None:
            raise ConfigurationError(
                "min_pixels and max_pixels do not apply to LLaVA, whose frames have one size: leave them out",
                str(source.path),
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
        """See `FramePreprocessor`: it is the same for all."""
        return self

    def target_size(self, height: int, width: int) -> tuple[int, int]:  # noqa: ARG002 - the same for all
        """See `FramePreprocessor`: it is the same for all."""
        return self.height, self.width

    def token_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:  # noqa: ARG002
        """See `FramePreprocessor`: every frame is a temporal step."""
        return num_frames, self.tokens_per_side, self.tokens_per_side

    def resize(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """See `FramePreprocessor`: bicubic with antialiasing."""
        return resize_frames(frames, (self.height, self.width))

    def pictures(self, frames: NDArray[np.uint8], device: torch.device) -> Tensor:
        """Normalise resized frames uint8 `[F, H, W, 3]` to float32 `[F, 3, H, W]` on a device."""
        return normalize(frames, device, self.image_mean, self.image_std)


def _height_and_width(size: Any, source: ModelSource) -> tuple[int, int]:  # noqa: ANN401 - as JSON has it
    try:
        return int(size["height"]), int(size["width"])
    except (TypeError, KeyError, ValueError):
        raise ModelLoadError(f"the processor's size {size} is not a height and a width", str(source.path)) from None
