"""FlashVID's first part alone: the whole budget goes to the selection (arXiv 2602.08024, ablation of ADTS and TSTM)."""

from __future__ import annotations

from flashvid.compression.flashvid import compress_flashvid
from flashvid.compression.method import CompressionMethod
from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig


def _compress(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    return compress_flashvid(clip, config.model_copy(update={"alpha": 1.0}))


METHOD = CompressionMethod(_compress, "FlashVID, arXiv 2602.08024: attention and diversity based token selection")
