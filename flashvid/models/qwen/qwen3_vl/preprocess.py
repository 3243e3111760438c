"""Cut frames into patches as transformers' Qwen3-VL video processor does: pixels are bounded per video."""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from flashvid.models.frames import HALF, stored_settings
from flashvid.models.qwen.qwen_preprocess import QwenFramePreprocessor
from flashvid.models.source import ModelSource


@dataclass(frozen=True)
class Qwen3FramePreprocessor(QwenFramePreprocessor):
    """Resizes frames to a size that depends on their number, and cuts patches as Qwen2.5-VL does.

    Attributes:
        per_frame: Whether `min_pixels` and `max_pixels` bound one frame, as bounds set by the user do, or all frames of
            a video together, as the model's own bounds do.
        cap_frames: Whether single frames of short videos are bounded too (`cap_pixels_per_frame` of the processor).
        max_frame_tokens: Upper bound of a frame's tokens where `cap_frames` is set.
        num_frames: Number of frames of the whole video, if frames are passed a few at a time; see `for_video`.
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
        """Read a model's settings; bounds that are not None apply to one frame and replace the model's own.

        Raises:
            ModelLoadError: A file can't be read.
            ConfigurationError: The lower bound is above the upper bound.
        """
        stored = stored_settings(source)
        size = stored.get("size") or {}
        per_frame = min_pixels is not None or max_pixels is not None
        if per_frame:
            # A bound that is None does not apply.
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
        """See `FramePreprocessor`: the target size depends on the number of frames."""
        return replace(self, num_frames=num_frames)

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width in pixels after resizing: multiples of a token's side, aspect ratio nearly kept.

        Without `for_video`, the size is that of a video of one temporal step.

        Raises:
            InvalidFeaturesError: One side of a frame is more than 200 times as long as the other.
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
        """Return the target size of frames, or their own size if frames may already have been resized to it.

        The frames are all frames of a video, or, after `for_video`, some of its frames.

        The processor uses an odd number of frames both as it is and rounded to even, and allows strips of one token's
        height above its bounds, so that resizing twice could change the size twice. A size that is within bounds by
        either number, or such a strip, is therefore kept.
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
        # Bounds of one frame do not depend on the number of frames.
        return self.temporal_patch_size if self.per_frame else max(num_frames, self.temporal_patch_size)

    def _bounds(self, count: int) -> tuple[int, int]:
        """Return the least and the most pixels of a video of `count` frames."""
        if self.per_frame:
            return self.min_pixels * count, self.max_pixels * count
        if not self.cap_frames:
            return self.min_pixels, self.max_pixels
        cap = self.max_frame_tokens * (self.patch_size * self.merge_size) ** 2
        per_frame = max(min(cap, self.max_pixels // count), int(self.min_pixels * 1.05))
        return self.min_pixels, per_frame * count

    def _counted(self, count: int) -> int:
        # Python rounds halves to even, as the processor does: 5 frames count as 4.
        return round(count / self.temporal_patch_size) * self.temporal_patch_size
