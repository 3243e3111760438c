"""FastV: every token up to a layer of the LLM, then only those that the question attends to (arXiv 2403.06764).

The choice depends on the question and cannot be cached, so the vision side keeps every token. The decoder prunes, with
the settings `InnerPruningConfig`; `flashvid.presets.FASTV_PRUNING` has those of the paper.
"""

import torch

from flashvid.compression.method import keep
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig


def compress(clip: ClipFeatures, _config: CompressionConfig) -> CompressionResult:
    return keep(clip, torch.arange(clip.scores.numel(), device=clip.scores.device))
