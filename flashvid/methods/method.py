"""What a compression method is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flashvid.config import CompressionConfig
from flashvid.result import ClipFeatures, CompressionResult


@dataclass(frozen=True)
class CompressionMethod:
    """An entry of the registry.

    Attributes:
        compress: The method. It may rely on checked features, must not change them, and is called without gradients.
        source: Where it is published, and which part of that it is.
    """

    compress: Callable[[ClipFeatures, CompressionConfig], CompressionResult]
    source: str
