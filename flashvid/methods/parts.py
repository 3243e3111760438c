"""FlashVID's two parts alone: what the paper's ablation compares (arXiv 2602.08024, ablation of ADTS and TSTM)."""

from __future__ import annotations

from flashvid.config import CompressionConfig
from flashvid.methods.flashvid import compress_flashvid
from flashvid.methods.method import CompressionMethod
from flashvid.result import ClipFeatures, CompressionResult


def _selection_alone(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    return compress_flashvid(clip, config.model_copy(update={"alpha": 1.0}))


def _merging_alone(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    return compress_flashvid(clip, config.model_copy(update={"alpha": 0.0}))


ADTS = CompressionMethod(_selection_alone, "FlashVID, arXiv 2602.08024: attention and diversity based token selection")
TSTM = CompressionMethod(_merging_alone, "FlashVID, arXiv 2602.08024: tree-based spatiotemporal token merging")
