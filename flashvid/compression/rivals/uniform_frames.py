"""Whole frames, evenly spaced, as sampling fewer frames would give."""

import math

import torch

from flashvid.compression.method import keep
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig


def compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    num_frames, num_tokens = clip.scores.shape
    # Rounded up, so that there are never fewer tokens than with other methods.
    kept = math.ceil(config.clip_budget(*clip.scores.shape) / num_tokens)
    # The middles of equal parts of the clip.
    frames = (torch.arange(kept, device=clip.scores.device) * 2 + 1) * num_frames // (2 * kept)
    positions = torch.arange(num_tokens, device=frames.device)
    return keep(clip, (frames[:, None] * num_tokens + positions).flatten())
