"""Random tokens of every frame: the baseline that any method must exceed."""

import torch

from flashvid.compression.method import first_of_each_frame, keep
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig


def compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    # Drawn on the CPU, so that a seed selects the same tokens on every device.
    noise = torch.rand(clip.scores.shape, generator=torch.Generator().manual_seed(config.seed))
    ranked = noise.argsort(dim=-1, stable=True).to(clip.features.device)
    return keep(clip, first_of_each_frame(ranked, config.clip_budget(*clip.scores.shape)))
