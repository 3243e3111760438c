"""Check the frames of a video, and resize and normalise them as the processors of transformers do."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from flashvid.errors import InvalidFeaturesError
from flashvid.models.source import ModelSource, read_json

# Means and deviations of pixels in 0..1: the defaults of transformers' processors.
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)


def checked_frames(
    frames: NDArray[np.uint8] | Tensor, timestamps: ArrayLike
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Return the frames uint8 `[F, H, W, 3]` and timestamps `[F]` (seconds, float64) of one video as arrays.

    Raises:
        InvalidFeaturesError: Shape, dtype or order is wrong: for instance one image, or several videos.
    """
    try:
        pixels = frames.cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
        times = np.array(timestamps, dtype=np.float64)
    except ValueError as error:  # a list of arrays that differ in shape
        raise InvalidFeaturesError(f"frames and timestamps must be arrays of one video: {error}") from None
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
        several = {3: ": encode a video, not one image", 5: ": encode one video at a time"}.get(pixels.ndim, "")
        given = f"{pixels.dtype} {list(pixels.shape)}"
        raise InvalidFeaturesError(f"frames must be uint8 [F, H, W, 3], not {given}{several}")
    if times.shape != pixels.shape[:1]:
        raise InvalidFeaturesError(f"{len(pixels)} frames need as many timestamps, not {list(times.shape)}")
    if not np.isfinite(times).all() or (np.diff(times) < 0).any():
        raise InvalidFeaturesError("timestamps must be finite and not descend")
    return cast("NDArray[np.uint8]", pixels), times


def resize_frames(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize as torchvision does: bicubic with antialiasing, on bytes.

    Args:
        frames: uint8 `[F, H, W, 3]`, not changed.
        size: Height and width in pixels.

    Returns:
        uint8 `[F, *size, 3]`; the same array if it already has that size.
    """
    if frames.shape[1:3] == size:
        return frames
    # A copy: buffers from other processes are read-only, which torch warns of, and torch could write to them.
    pixels = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
    resized = functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def normalize(frames: NDArray[np.uint8], device: torch.device, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Turn bytes `[F, H, W, 3]` into normalised float32 `[F, 3, H, W]` on a device; only bytes are moved there.

    On CUDA the call returns without waiting for the device.
    """
    moved = move_frames(frames, device)
    count, height, width, channels = moved.shape
    pixels = torch.empty((count, channels, height, width), device=device).copy_(moved.permute(0, 3, 1, 2))
    # The processors fold the division by 255 into mean and deviation, so the result is the same to the bit.
    return pixels.sub_(_constants(mean, device) * 255).div_(_constants(std, device) * 255)


def _constants(values: Sequence[float], device: torch.device) -> Tensor:
    """Return one value per channel, float32 `[3, 1, 1]`.

    A number is passed with the call of a kernel; the CPU would wait for the copy of a tensor.
    """
    constants = torch.empty((len(values), 1, 1), device=device)
    for place, value in zip(constants, values, strict=True):
        place.fill_(value)
    return constants


def move_frames(frames: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Copy bytes `[F, H, W, 3]` to a device; on CUDA, return without waiting for the device.

    The CPU waits for a copy from pageable memory, which begins after all earlier kernels. It does not wait for a copy
    from pinned memory, so that the next block of frames is resized while the tower runs. Torch keeps pinned memory
    until the device has read it, and reuses it for the next block.
    """
    pixels = torch.empty(frames.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    # The only copy in host memory. Torch would warn of views of other processes' buffers, which are read-only.
    pixels.numpy()[:] = frames
    return pixels.to(device, non_blocking=pixels.is_pinned())


def stored_settings(source: ModelSource) -> Mapping[str, Any]:
    """Return a model's settings of preprocessing: those for videos, else those for images, as transformers does.

    Raises:
        ModelLoadError: A file can't be read.
    """
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (source.path / name).is_file():
            return read_json(source.path / name)
    return {}
