"""Modules made from configurations, ready to be given their weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from flashvid.errors import ConfigurationError

Module = TypeVar("Module", bound=torch.nn.Module)


def without_memory(kind: Callable[[Any], Module], config: object) -> Module:
    """A module whose parameters have shapes and no memory: nothing is allocated twice, nothing drawn at random.

    Raises:
        ConfigurationError: an attention implementation that is unknown or not installed.
    """
    try:
        with torch.device("meta"):
            return kind(config)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"the model can't be built as asked: {str(error).splitlines()[0]}") from None
