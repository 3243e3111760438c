"""FlashVID (arXiv 2602.08024): training-free compression of a video's visual tokens, and models that use it."""

from flashvid.compression import CompressionResult, compress
from flashvid.config import CompressionConfig
from flashvid.errors import (
    ConfigurationError,
    FatalError,
    FlashVidError,
    InvalidFeaturesError,
    ModelLoadError,
    PermanentError,
    TransientError,
)

__all__ = [
    "CompressionConfig",
    "CompressionResult",
    "ConfigurationError",
    "FatalError",
    "FlashVidError",
    "InvalidFeaturesError",
    "ModelLoadError",
    "PermanentError",
    "TransientError",
    "compress",
]
