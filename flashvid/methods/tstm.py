"""FlashVID's second part alone: the whole budget goes to merging (arXiv 2602.08024, ablation of ADTS and TSTM)."""

from __future__ import annotations

from flashvid.config import CompressionConfig
from flashvid.methods.flashvid import compress_flashvid
from flashvid.methods.method import CompressionMethod
from flashvid.result import ClipFeatures, CompressionResult


def _compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    return compress_flashvid(clip, config.model_copy(update={"alpha": 0.0}))


METHOD = CompressionMethod(_compress, "FlashVID, arXiv 2602.08024: tree-based spatiotemporal token merging")
