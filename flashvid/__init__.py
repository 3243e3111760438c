"""FlashVID: training-free compression of a video LLM's visual tokens (arXiv 2602.08024).

`compress` and its kind are loaded when they are first used: processes that only plan or store need not wait for torch.
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

# What needs torch, and where it is.
_LAZY = {
    "CompressionResult": "flashvid.compression.result",
    "compress": "flashvid.compression.api",
    "compress_stream": "flashvid.compression.streaming",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the exported object, typed above
    if name in _LAZY:
        return load_object(f"{_LAZY[name]}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
