"""FastV (arXiv 2403.06764): every token up to a layer of the LLM, behind it those that the question attends to.

Its choice depends on the question, so nothing of it can be cached: on the vision side every token is kept. The pruning
is `InnerPruningConfig`, in the decoder; `flashvid.presets.FASTV_PRUNING` is the paper's.
"""

from __future__ import annotations

import torch

from flashvid.compression.method import keep
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig


def compress(clip: ClipFeatures, _config: CompressionConfig) -> CompressionResult:
    return keep(clip, torch.arange(clip.scores.numel(), device=clip.scores.device))
