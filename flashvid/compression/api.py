"""The entry point of compression: checks the input and calls the method that the settings name."""

import math
from operator import index

import torch
from torch import Tensor

from flashvid.compression.result import ClipFeatures, CompressionResult
from flashvid.config import CompressionConfig
from flashvid.errors import InvalidFeaturesError
from flashvid.method_registry import METHODS

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Products of two features, a score and the reference's 1e6, summed over a model's width, fit float32 up to this value.
LARGEST_MAGNITUDE = 1e9


def compress(
    features: Tensor, scores: Tensor, config: CompressionConfig, *, grid_hw: tuple[int, int] | None = None
) -> CompressionResult:
    """Compress the visual tokens of one video.

    The same input gives the same bytes on one machine with one number of threads. The arguments are not changed, and
    no gradient is recorded.

    Args:
        features: `[T, N, D]`, any floating dtype and device: the projector's output for the LLM.
        scores: `[T, N]`, floating, on the same device: the attention each token receives in the vision tower.
        config: The settings.
        grid_hw: Rows and columns of a frame's tokens, for methods that use neighbours; by default a square.

    Returns:
        Exactly `config.clip_budget(T, N)` tokens; a budget of all T * N keeps every token unchanged. With
        `reference_compatible`, `T * config.budget(N)` tokens and at most T more, since the clusters of each frame are
        rounded up.

    Raises:
        InvalidFeaturesError: The tensors have a wrong shape, dtype, layout or device, are empty, or contain values that
            are not finite or beyond 1e9; or the grid does not have N tokens.
        ConfigurationError: `reference_compatible` with a temporal threshold of 1 or more and tokens to merge, where
            the reference divides by zero.
    """
    check_inputs(features, scores)
    num_tokens = features.shape[1]
    if grid_hw is None and math.isqrt(num_tokens) ** 2 == num_tokens:
        grid_hw = (math.isqrt(num_tokens), math.isqrt(num_tokens))
    if grid_hw is not None:
        grid_hw = _checked_grid(grid_hw, num_tokens)
    with torch.no_grad():
        result: CompressionResult = METHODS[config.method].compress(ClipFeatures(features, scores, grid_hw), config)
    return result


def _checked_grid(grid_hw: tuple[int, int], num_tokens: int) -> tuple[int, int]:
    try:
        rows, columns = map(index, grid_hw)
    except (TypeError, ValueError):
        raise InvalidFeaturesError(f"grid_hw must be two whole numbers, rows and columns, not {grid_hw!r}") from None
    if min(rows, columns) < 1 or rows * columns != num_tokens:
        raise InvalidFeaturesError(f"grid_hw {rows} x {columns} must have as many tokens as a frame, {num_tokens}")
    return rows, columns


def check_inputs(features: Tensor, scores: Tensor) -> None:
    """Check that features and scores can be compressed; see `compress`.

    Raises:
        InvalidFeaturesError: See `compress`.
    """
    for name, tensor, shape in (("features", features, "[T, N, D]"), ("scores", scores, "[T, N]")):
        if not isinstance(tensor, Tensor):
            raise InvalidFeaturesError(f"{name} must be a tensor {shape}, not {type(tensor).__name__}")
        if tensor.ndim != shape.count(",") + 1:
            raise InvalidFeaturesError(f"{name} must be {shape}, not of shape {list(tensor.shape)}")
        if tensor.dtype not in DTYPES:
            raise InvalidFeaturesError(f"{name} must be floating point of 16, 32 or 64 bits, not {tensor.dtype}")
        if tensor.numel() == 0:
            raise InvalidFeaturesError(f"{name} are empty: shape {list(tensor.shape)}")
    if features.shape[:2] != scores.shape:
        raise InvalidFeaturesError(
            f"features {list(features.shape)} and scores {list(scores.shape)} differ in frames or tokens: give one "
            "score for each token"
        )
    if features.device != scores.device:
        raise InvalidFeaturesError(f"features are on {features.device}, scores on {scores.device}: move them to one")
    for name, tensor in (("features", features), ("scores", scores)):
        if tensor.layout != torch.strided or tensor.is_meta:
            kind = "a meta tensor" if tensor.is_meta else tensor.layout
            raise InvalidFeaturesError(f"{name} must be a dense tensor with values, not {kind}")
        # One pass without a copy; NaN propagates.
        extremes = [float(extreme) for extreme in tensor.detach().aminmax()]
        if not all(math.isfinite(extreme) for extreme in extremes):
            raise InvalidFeaturesError(f"{name} contain NaN or infinite values")
        if max(map(abs, extremes)) > LARGEST_MAGNITUDE:
            raise InvalidFeaturesError(f"{name} contain values beyond {LARGEST_MAGNITUDE:g}")
