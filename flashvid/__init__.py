"""FlashVID: training-free compression of a video LLM's visual tokens (arXiv 2602.08024).

Names that need torch are imported on first use, so that planning and storing do not wait for torch.
"""

from typing import TYPE_CHECKING, Any

from flashvid.config import CompressionConfig, InnerPruningConfig
from flashvid.errors import (
    ConfigurationError,
    FatalError,
    FlashVidError,
    InvalidFeaturesError,
    ModelLoadError,
    PermanentError,
    TransientError,
)
from flashvid.plugins import load_object

if TYPE_CHECKING:
    from flashvid.compression.api import compress
    from flashvid.compression.result import CompressionResult
    from flashvid.compression.streaming import compress_stream

__all__ = [
    "CompressionConfig",
    "CompressionResult",
    "ConfigurationError",
    "FatalError",
    "FlashVidError",
    "InnerPruningConfig",
    "InvalidFeaturesError",
    "ModelLoadError",
    "PermanentError",
    "TransientError",
    "compress",
    "compress_stream",
]

# Names whose modules import torch.
_LAZY = {
    "CompressionResult": "flashvid.compression.result",
    "compress": "flashvid.compression.api",
    "compress_stream": "flashvid.compression.streaming",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the exported object, typed above
    if name in _LAZY:
        return load_object(f"{_LAZY[name]}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
