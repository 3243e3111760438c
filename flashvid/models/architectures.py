"""Whether a configuration names an architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def names_architecture(config: Mapping[str, Any], architectures: tuple[str, ...], model_type: str) -> bool:
    """By the names in `architectures`; a configuration without any is told by its model type."""
    given = config.get("architectures")
    return any(name in architectures for name in given) if given else config.get("model_type") == model_type
