"""Load a model, or one side of it, from its directory."""

from typing import get_args

import torch

from flashvid.errors import ConfigurationError
from flashvid.models.devices import refuse_too_large, usable_device
from flashvid.models.family import FramePreprocessor, LoadOptions, Part
from flashvid.models.registry import FAMILIES
from flashvid.models.resolve import model_errors, resolve_model
from flashvid.models.source import ModelSource
from flashvid.models.video_model import VideoModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    model: str | ModelSource,
    *,
    revision: str | None = None,
    part: Part = "all",
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    attn_implementation: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> VideoModel:
    """Load a video LLM, or the side of it that a process needs.

    Args:
        model: Embedded name, local directory, hub id, or the result of `resolve_model`.
        revision: Branch, tag or commit of a hub id.
        part: "vision" and "language" read only the tensors of that side.
        dtype: float32, bfloat16 or float16; the checkpoint's own when omitted.
        device: A torch device; when omitted, cuda if torch finds a GPU, else cpu.
        attn_implementation: Attention implementation of transformers (eager, sdpa, flash_attention_2); transformers
            chooses when omitted.
        min_pixels: Lower bound of a resized frame's area in pixels; the model's own when omitted.
        max_pixels: Upper bound of a resized frame's area in pixels; the model's own when omitted.

    Raises:
        ModelLoadError: Files are missing or do not fit, or the device lacks the memory for the weights.
        ConfigurationError: The part, dtype, device or attention implementation is unknown, or the bounds exclude each
            other.
    """
    if part not in get_args(Part):
        raise ConfigurationError(f"part {part!r} is not one of {', '.join(get_args(Part))}")
    _check_pixels(min_pixels, max_pixels)
    precision = named_dtype(dtype)
    source = model if isinstance(model, ModelSource) else resolve_model(model, revision)
    options = LoadOptions(
        dtype=precision or stored_dtype(source),
        device=usable_device(device),
        attn_implementation=attn_implementation,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
    )
    with model_errors(source.path, passed=(torch.OutOfMemoryError, ImportError)):
        return _load(source, part, options)


def _load(source: ModelSource, part: Part, options: LoadOptions) -> VideoModel:
    family, checkpoint = FAMILIES[source.family], source.checkpoint()
    needed = family.needed_tensors(source.config(), checkpoint.files, part)
    refuse_too_large(source, checkpoint.num_bytes(needed, options.dtype), options.device)
    vision = family.load_vision(source, checkpoint, options) if part in ("all", "vision") else None
    language = family.load_language(source, checkpoint, options) if part in ("all", "language") else None
    return VideoModel(source, vision, language, device=options.device, checkpoint=checkpoint)


def load_preprocessor(
    model: str | ModelSource,
    *,
    revision: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> FramePreprocessor:
    """Load the preprocessing of a model's frames without reading its weights.

    Args:
        model: As in `load_model`.
        revision: As in `load_model`.
        min_pixels: As in `load_model`.
        max_pixels: As in `load_model`.

    Raises:
        ModelLoadError: Files are missing or do not fit.
        ConfigurationError: The bounds exclude each other.
    """
    _check_pixels(min_pixels, max_pixels)
    source = model if isinstance(model, ModelSource) else resolve_model(model, revision, weights=False)
    with model_errors(source.path):
        return FAMILIES[source.family].load_preprocessor(source, min_pixels=min_pixels, max_pixels=max_pixels)


def _check_pixels(min_pixels: int | None, max_pixels: int | None) -> None:
    for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
        if value is not None and value < 1:
            raise ConfigurationError(f"{name} must be at least 1, not {value}")


def named_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """Return the precision of that name.

    Raises:
        ConfigurationError: Models are not run in this precision.
    """
    if dtype is None:
        return None
    known = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if known not in _DTYPES.values():
        raise ConfigurationError(f"dtype {dtype} is not one of {', '.join(_DTYPES)}")
    return known


def stored_dtype(source: ModelSource) -> torch.dtype | None:
    """Return the precision that a model's configuration names; None, to keep the stored one, if it names none."""
    config = source.config()
    named = config.get("dtype") or config.get("torch_dtype")
    return _DTYPES.get(named) if isinstance(named, str) else None
