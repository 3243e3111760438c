"""Cut frames into patches as transformers' Qwen2-VL video processor does, without torchvision."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flashvid.errors import ConfigurationError, InvalidFeaturesError
from flashvid.models.frames import CLIP_MEAN, CLIP_STD, normalize, resize_frames, stored_settings
from flashvid.models.source import ModelSource

_LARGEST_ASPECT_RATIO = 200


@dataclass(frozen=True)
class QwenFramePreprocessor:
    """Resizes frames and cuts them into patches. Defaults are those of transformers' processor.

    Attributes:
        patch_size: Side of a patch in pixels.
        merge_size: Patches along a side that the projector merges into one token.
        temporal_patch_size: Frames per temporal step.
        min_pixels: Lower bound of a resized frame's area in pixels.
        max_pixels: Upper bound of a resized frame's area in pixels.
        image_mean: Mean per channel, of values in 0..1.
        image_std: Standard deviation per channel, of values in 0..1.
    """

    patch_size: int = 14
    merge_size: int = 2
    temporal_patch_size: int = 2
    min_pixels: int = 128 * 28 * 28
    max_pixels: int = 768 * 28 * 28
    image_mean: tuple[float, ...] = CLIP_MEAN
    image_std: tuple[float, ...] = CLIP_STD

    @classmethod
    def load(cls, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """Read a model's settings; bounds that are not None replace its own.

        Raises:
            ModelLoadError: A file can't be read.
            ConfigurationError: The lower bound is above the upper bound.
        """
        stored = stored_settings(source)
        size = stored.get("size") or {}
        low = _first(min_pixels, stored.get("min_pixels"), size.get("shortest_edge"), cls.min_pixels)
        high = _first(max_pixels, stored.get("max_pixels"), size.get("longest_edge"), cls.max_pixels)
        return cls._with_bounds(low, high, source, stored)

    @classmethod
    def _with_bounds(
        cls, low: int, high: int, source: ModelSource, stored: Mapping[str, Any], **others: bool | int
    ) -> Self:
        if low > high:
            raise ConfigurationError(f"min_pixels ({low}) is above max_pixels ({high})", str(source.path))
        # Patch sizes come from config.json, as the weights require, not from the processor's file.
        vision = source.config()["vision_config"]
        return cls(
            patch_size=vision.get("patch_size", cls.patch_size),
            merge_size=vision.get("spatial_merge_size", cls.merge_size),
            temporal_patch_size=vision.get("temporal_patch_size", cls.temporal_patch_size),
            min_pixels=low,
            max_pixels=high,
            image_mean=tuple(stored.get("image_mean") or cls.image_mean),
            image_std=tuple(stored.get("image_std") or cls.image_std),
            **others,
        )

    def for_video(self, num_frames: int) -> Self:  # noqa: ARG002 - the same for all
        """See `FramePreprocessor`: it is the same for all."""
        return self

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width in pixels after resizing.

        They are multiples of a token's side, the area is within bounds, and the aspect ratio is nearly kept.

        Raises:
            InvalidFeaturesError: One side of a frame is more than 200 times as long as the other.
        """
        return self._fitting_size(height, width, (self.min_pixels, self.max_pixels))

    def _fitting_size(
        self, height: int, width: int, bounds: tuple[int, int], *, count: int = 1, counted: int = 1
    ) -> tuple[int, int]:
        """Return height and width in pixels with which `count` frames together are within bounds.

        Args:
            height: Height of a frame in pixels.
            width: Width of a frame in pixels.
            bounds: Least and most pixels of all frames together.
            count: Number of frames.
            counted: Number of frames that the processor assumes when it checks the bounds.
        """
        if max(height, width) > _LARGEST_ASPECT_RATIO * min(height, width):
            raise InvalidFeaturesError(f"frames of {width} x {height} are too long and thin for this model")
        side, (low, high) = self.patch_size * self.merge_size, bounds
        # Python's round, to even at halves, as the processor does.
        rows, columns = round(height / side) * side, round(width / side) * side
        area = counted * rows * columns
        if area > high:
            shrink = math.sqrt(count * height * width / high)
            rows = max(side, math.floor(height / shrink / side) * side)
            columns = max(side, math.floor(width / shrink / side) * side)
        elif area < low:
            grow = math.sqrt(low / (count * height * width))
            rows, columns = math.ceil(height * grow / side) * side, math.ceil(width * grow / side) * side
        return rows, columns

    def token_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """See `FramePreprocessor`."""
        preprocessor = self.for_video(num_frames)
        resized = np.broadcast_to(np.uint8(0), (num_frames, *preprocessor.target_size(height, width), 3))
        # Encoding checks sizes, and resizes again if no multiple of a token's side is within bounds.
        rows, columns = preprocessor.resized_size(resized)
        side = self.patch_size * self.merge_size
        return math.ceil(num_frames / self.temporal_patch_size), rows // side, columns // side

    def resize(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize frames to `resized_size`, bicubic with antialiasing.

        Args:
            frames: uint8 `[F, H, W, 3]`, not changed.

        Returns:
            uint8 `[F, H', W', 3]`; the same array if it already has that size.
        """
        return resize_frames(frames, self.resized_size(frames))

    def resized_size(self, frames: NDArray[np.uint8]) -> tuple[int, int]:
        """Return the height and width in pixels to which `resize` resizes frames uint8 `[F, H, W, 3]`."""
        return self.target_size(*frames.shape[1:3])

    def fill_last_step(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Repeat the last frame until the frames `[F, H, W, 3]` fill whole temporal steps."""
        missing = -len(frames) % self.temporal_patch_size
        return np.concatenate([frames, *[frames[-1:]] * missing]) if missing else frames

    def patches(self, frames: NDArray[np.uint8], device: torch.device) -> tuple[Tensor, tuple[int, int, int]]:
        """Normalise resized frames and cut them into patches.

        Args:
            frames: uint8 `[F, H, W, 3]` at target size; the last frame is repeated to fill an incomplete step.
            device: The device to compute on; only bytes are moved there.

        Returns:
            float32 `[T * rows * columns, 3 * temporal_patch_size * patch_size ** 2]` (`pixel_values_videos`), and the
            grid `(T, rows, columns)` of patches.
        """
        pixels = normalize(self.fill_last_step(frames), device, self.image_mean, self.image_std)
        count, channels, height, width = pixels.shape
        steps, rows, columns = count // self.temporal_patch_size, height // self.patch_size, width // self.patch_size
        merge, patch = self.merge_size, self.patch_size
        cut = pixels.reshape(
            steps, self.temporal_patch_size, channels, rows // merge, merge, patch, columns // merge, merge, patch
        )
        # Patches of one token are consecutive; the order inside a patch is channel, frame, row, column.
        ordered = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8)
        return ordered.reshape(steps * rows * columns, -1), (steps, rows, columns)


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)
