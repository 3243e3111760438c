"""Attention top-k: keep the tokens of every frame that receive the most attention in the vision tower."""

from flashvid.compression.method import first_of_each_frame, keep
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig


def compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    ranked = clip.scores.float().sort(dim=-1, descending=True, stable=True).indices
    return keep(clip, first_of_each_frame(ranked, config.clip_budget(*clip.scores.shape)))
