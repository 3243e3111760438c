"""Frames to patches, as Hugging Face's Qwen3-VL video processor makes them: a budget of pixels for the whole video."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flashvid.models.frames import HALF, stored_settings
from flashvid.models.qwen.qwen_preprocess import QwenFramePreprocessor
from flashvid.models.source import ModelSource


@dataclass(frozen=True)
class Qwen3FramePreprocessor(QwenFramePreprocessor):
    """Resizing and patching. Patches are cut as Qwen2.5-VL's are; sizes depend on the number of frames.

    Attributes:
        per_frame: Whether `min_pixels` and `max_pixels` bound one frame, as bounds given by the user do, or all frames
            of a video together, as the model's own do.
        cap_frames: Whether a frame of a short video is bounded, too (`cap_pixels_per_frame` of the processor).
        max_frame_tokens: By this many tokens.
        num_frames: Of the whole video, if frames are given a few at a time; see `for_video`.
    """

    patch_size: int = 16
    min_pixels: int = 128 * 32 * 32
    max_pixels: int = 768 * 32 * 32
    image_mean: tuple[float, ...] = HALF
    image_std: tuple[float, ...] = HALF
    per_frame: bool = False
    cap_frames: bool = False
    max_frame_tokens: int = 768
    num_frames: int | None = None

    @classmethod
    def load(cls, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None) -> Self:
        """Read a model's settings; given bounds, of one frame, replace its own.

        Raises:
            ModelLoadError: an unreadable file.
            ConfigurationError: the lower bound is above the upper.
        """
        stored = stored_settings(source)
        size = stored.get("size") or {}
        per_frame = min_pixels is not None or max_pixels is not None
        if per_frame:
            # A bound that is not given does not bind.
            low, high = min_pixels or 1, max_pixels or 1 << 62
        else:
            low = size.get("shortest_edge") or cls.min_pixels
            high = size.get("longest_edge") or cls.max_pixels
        return cls._with_bounds(
            low,
            high,
            source,
            stored,
            per_frame=per_frame,
            cap_frames=bool(stored.get("cap_pixels_per_frame")) and not per_frame,
            max_frame_tokens=stored.get("max_video_tokens") or cls.max_frame_tokens,
        )

    def for_video(self, num_frames: int) -> Self:
        """The preprocessing of a video's frames that are given a few at a time: their size hangs on their number."""
        return replace(self, num_frames=num_frames)

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing: multiples of a token's side, shape nearly kept.

        Without `for_video`, of the frames of one temporal step.

        Raises:
            InvalidFeaturesError: a frame more than 200 times as long as wide.
        """
        return self._target_size(height, width, self.num_frames or self.temporal_patch_size)

    def _target_size(self, height: int, width: int, num_frames: int) -> tuple[int, int]:
        side = self.patch_size * self.merge_size
        if height < side or width < side:
            grow = max(side / height, side / width)
            height, width = int(height * grow), int(width * grow)
        count = self._count(num_frames)
        return self._fitting_size(height, width, self._bounds(count), count=count, counted=self._counted(count))

    def resized_size(self, frames: NDArray[np.uint8]) -> tuple[int, int]:
        """`target_size` of a video's frames, and their own size if that is one that `target_size` gives.

        They are all frames of a video, or some of those that `for_video` was told of.

        The processor counts an odd number of frames once as it is and once rounded to even, and keeps strips of one
        token's height above its bounds, so that resizing what it has resized could change it again; a size that is
        within bounds by either count, or such a strip, is left alone.
        """
        num_frames, height, width = self.num_frames or len(frames), *frames.shape[1:3]
        side = self.patch_size * self.merge_size
        if height % side or width % side:
            return self._target_size(height, width, num_frames)
        count = self._count(num_frames)
        low, high = self._bounds(count)
        counts = (count, self._counted(count))
        fits = min(counts) * height * width <= high or min(height, width) == side
        if fits and max(counts) * height * width >= low:
            return height, width
        return self._target_size(height, width, num_frames)

    def _count(self, num_frames: int) -> int:
        # Bounds of one frame know no number of frames.
        return self.temporal_patch_size if self.per_frame else max(num_frames, self.temporal_patch_size)

    def _bounds(self, count: int) -> tuple[int, int]:
        """Least and most pixels of a video of `count` frames."""
        if self.per_frame:
            return self.min_pixels * count, self.max_pixels * count
        if not self.cap_frames:
            return self.min_pixels, self.max_pixels
        cap = self.max_frame_tokens * (self.patch_size * self.merge_size) ** 2
        per_frame = max(min(cap, self.max_pixels // count), int(self.min_pixels * 1.05))
        return self.min_pixels, per_frame * count

    def _counted(self, count: int) -> int:
        # Python's round, to even at halves, as the processor does: 5 frames count as 4.
        return round(count / self.temporal_patch_size) * self.temporal_patch_size
