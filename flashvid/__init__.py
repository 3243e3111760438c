"""FlashVID: training-free compression of a video LLM's visual tokens (arXiv 2602.08024).

`compress` is loaded when it is first used: processes that only plan or store need not wait for torch.
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

if TYPE_CHECKING:
    from flashvid.compression import compress
    from flashvid.result import CompressionResult

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
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the exported object, typed above
    if name in ("CompressionResult", "compress"):
        from flashvid import compression

        return getattr(compression, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
