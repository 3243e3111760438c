"""What the families' preprocessing has in common: resizing and normalising bytes, and where settings are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from flashvid.models.sources import ModelSource, read_json


def resize_frames(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize as torchvision does it: bicubic with antialiasing, on bytes.

    Args:
        frames: uint8 `[F, H, W, 3]`, not changed.
        size: Height and width.

    Returns:
        uint8 `[F, *size, 3]`; the same array if it has that size.
    """
    if frames.shape[1:3] == size:
        return frames
    # A copy: torch warns of, and could write to, the read-only buffers that arrive from other processes.
    pixels = torch.from_numpy(frames.transpose(0, 3, 1, 2).copy())
    resized = functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)
    return np.ascontiguousarray(resized.permute(0, 2, 3, 1).numpy())


def normalize(frames: NDArray[np.uint8], device: torch.device, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bytes `[F, H, W, 3]` to float32 `[F, 3, H, W]`, normalised on the device: only bytes are moved there."""
    pixels = move_frames(frames, device).float()
    # Processors fold the division by 255 into mean and deviation.
    scaled_mean = torch.tensor(mean, device=device).view(3, 1, 1) * 255
    scaled_std = torch.tensor(std, device=device).view(3, 1, 1) * 255
    return pixels.sub_(scaled_mean).div_(scaled_std)


def move_frames(frames: NDArray[np.uint8], device: torch.device) -> Tensor:
    """Bytes `[F, H, W, 3]` to `[F, 3, H, W]` on a device, `frames` not changed; on CUDA without waiting for it.

    A copy out of pageable memory begins when all kernels before it have ended, and the CPU waits for that; out of
    pinned memory it does not, so that the next block of frames is resized while the tower is at this one. Torch keeps
    pinned memory until the device has read it, and for the next block.
    """
    count, height, width, channels = frames.shape
    shape = (count, channels, height, width)
    pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
    # The one copy on this side. Views of other processes' buffers are read-only, which torch would warn of.
    pixels.numpy()[:] = frames.transpose(0, 3, 1, 2)
    return pixels.to(device, non_blocking=pixels.is_pinned())


def stored_settings(source: ModelSource) -> Mapping[str, Any]:
    """A model's settings of preprocessing; one without a file for videos uses the images', as transformers does.

    Raises:
        ModelLoadError: an unreadable file.
    """
    for name in ("video_preprocessor_config.json", "preprocessor_config.json"):
        if (source.path / name).is_file():
            return read_json(source.path / name)
    return {}
