"""VidCom2: more tokens for frames that differ from the rest of the video, unique tokens in each (arXiv 2505.14454).

Written from the paper's method section: frame compression adjustment, then adaptive token compression.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from flashvid.compression.method import keep
from flashvid.compression.ranking import apportion
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig

# Widths of the Gaussian kernels, as powers of two, and the temperature over frames.
_KERNEL_POWERS = (-3, -2, -1, 0, 1)
_TEMPERATURE = 0.01
# Shares are rounded to multiples of 1 / this, so that the budget is split in whole numbers.
_SHARE_STEPS = 2**24


def compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    num_frames, num_tokens = clip.scores.shape
    units = functional.normalize(clip.features.float(), dim=-1)
    in_video = -_similarity(units, units.mean(dim=(0, 1)))
    in_frame = -_similarity(units, units.mean(dim=1, keepdim=True))
    shares = (in_video.mean(dim=-1) / _TEMPERATURE).softmax(dim=0)
    budget = config.clip_budget(*clip.scores.shape)
    budgets = frame_counts(budget, 1 + shares - 1 / num_frames, num_tokens)
    ranked = (in_video + in_frame).sort(dim=-1, descending=True, stable=True).indices
    chosen = [frame * num_tokens + ranked[frame, :count] for frame, count in enumerate(budgets)]
    return keep(clip, torch.cat(chosen).sort().values)


def frame_counts(budget: int, shares: Tensor, most: int) -> list[int]:
    """Split the budget in proportion to positive shares `[T]`; tokens above `most` in a frame go to the others."""
    weights = (shares.double() * _SHARE_STEPS).round().long().clamp_min(1).cpu().numpy()
    group = np.zeros(len(weights), dtype=np.int64)
    counts = apportion(np.array([budget]), weights, group)
    while (counts > most).any():
        is_full = counts >= most
        rest = apportion(np.array([budget - most * is_full.sum()]), weights * ~is_full, group)
        counts = np.where(is_full, most, rest)
    return [int(count) for count in counts]


def _similarity(tokens: Tensor, centre: Tensor) -> Tensor:
    """Return the sum of Gaussian kernels of several widths of the distance from `centre`: `[..., D]` to `[...]`."""
    distance = (tokens - centre).square().sum(dim=-1)
    return torch.stack([(-distance / (2 * 2.0**power)).exp() for power in _KERNEL_POWERS]).sum(dim=0)
