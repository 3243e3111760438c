"""The handle on a video LLM: frames to visual features, features to fewer tokens, tokens and questions to answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flashvid.compression import compress
from flashvid.config import CompressionConfig
from flashvid.errors import ConfigurationError, InvalidFeaturesError
from flashvid.models.qwen2_5_vl.preprocess import QwenFramePreprocessor
from flashvid.models.sources import ModelSource, resolve_model
from flashvid.models.types import Answer, CompressedVideo, GenerationConfig, VisualFeatures

if TYPE_CHECKING:
    from flashvid.models.qwen2_5_vl.language import QwenLanguage
    from flashvid.models.qwen2_5_vl.vision import QwenVision

Part = Literal["all", "vision", "language"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class VideoModel:
    """A loaded model, or one side of it.

    Attributes:
        source: Which model it is.
        device: Where it runs.
    """

    def __init__(
        self, source: ModelSource, vision: QwenVision | None, language: QwenLanguage | None, device: torch.device
    ) -> None:
        self.source = source
        self.device = device
        self._vision = vision
        self._language = language

    def encode(self, frames: NDArray[np.uint8] | Tensor, timestamps: ArrayLike) -> VisualFeatures:
        """Run the vision side.

        Args:
            frames: uint8 `[F, H, W, 3]`, RGB, at any size: they are resized as the family does it, unless they are.
            timestamps: `[F]` seconds, ascending.

        Raises:
            InvalidFeaturesError: frames or timestamps of another shape or dtype.
            ConfigurationError: the vision side was not loaded.
        """
        if self._vision is None:
            raise ConfigurationError("encode needs the vision side: load_model(..., part='vision' or 'all')")
        pixels = frames.cpu().numpy() if isinstance(frames, Tensor) else np.asarray(frames)
        times = np.asarray(timestamps, dtype=np.float64)
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            raise InvalidFeaturesError(f"frames must be uint8 [F, H, W, 3], not {pixels.dtype} {list(pixels.shape)}")
        if times.shape != pixels.shape[:1]:
            raise InvalidFeaturesError(f"{len(pixels)} frames need as many timestamps, not {list(times.shape)}")
        return self._vision.encode(pixels, times)

    def compress(self, visual: VisualFeatures, config: CompressionConfig | None) -> CompressedVideo:
        """Keep the visual tokens that matter.

        Args:
            visual: From `encode`.
            config: Settings of the compression; None keeps every token.

        Raises:
            InvalidFeaturesError: see `flashvid.compress`.
            ConfigurationError: see `flashvid.compress`.
        """
        steps, num_tokens, width = visual.features.shape
        if config is None:
            everything = torch.arange(steps * num_tokens)
            tokens, indices, assignment = visual.features.reshape(-1, width), everything, everything
            segment_lengths: tuple[int, ...] = (steps,)
        else:
            result = compress(visual.features, visual.scores, config)
            tokens, indices, assignment = result.tokens, result.indices, result.assignment
            segment_lengths = result.segment_lengths
        return CompressedVideo(
            tokens, indices, assignment, visual.grid_thw, visual.frame_timestamps, segment_lengths
        )

    def answer(
        self, compressed: CompressedVideo, questions: Sequence[str], generation: GenerationConfig | None = None
    ) -> list[Answer]:
        """Answer questions about one video; its tokens are prefilled once for all of them.

        An answer does not depend on which other questions are asked with it.

        Args:
            compressed: From `compress`, or rebuilt from storage.
            questions: What the user asks, without the video.
            generation: Settings of the generation.

        Returns:
            One answer per question, in order.

        Raises:
            ConfigurationError: the language side was not loaded.
            InvalidFeaturesError: the tokens are not of this model's width.
        """
        if self._language is None:
            raise ConfigurationError("answer needs the language side: load_model(..., part='language' or 'all')")
        return self._language.answer(compressed, questions, generation or GenerationConfig())


def load_model(
    model: str | ModelSource,
    *,
    revision: str | None = None,
    part: Part = "all",
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> VideoModel:
    """Load a video LLM, or the half of it that a process needs.

    Args:
        model: Embedded name, local directory, hub id, or what `resolve_model` returned.
        revision: For a hub id.
        part: "vision" and "language" read only their tensors from disk.
        dtype: float32, bfloat16 or float16; the checkpoint's own when omitted.
        device: Default: cuda if there is one, else cpu.
        min_pixels: Lower bound of a resized frame's area; the model's own when omitted.
        max_pixels: Upper bound.

    Raises:
        ModelLoadError: files missing or not fitting.
        ConfigurationError: an unknown dtype.
    """
    source = model if isinstance(model, ModelSource) else resolve_model(model, revision)
    where = torch.device(device if device is not None else "cuda" if torch.cuda.is_available() else "cpu")
    precision = _dtype(dtype)
    vision = language = None
    # Each side imports transformers: not before it is needed.
    if part in ("all", "vision"):
        from flashvid.models.qwen2_5_vl.vision import QwenVision

        preprocessor = load_preprocessor(source, min_pixels=min_pixels, max_pixels=max_pixels)
        vision = QwenVision.load(source, preprocessor, dtype=precision, device=where)
    if part in ("all", "language"):
        from flashvid.models.qwen2_5_vl.language import QwenLanguage

        language = QwenLanguage.load(source, dtype=precision, device=where)
    return VideoModel(source, vision, language, where)


def load_preprocessor(
    model: str | ModelSource,
    *,
    revision: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> QwenFramePreprocessor:
    """A family's preprocessing, without its weights.

    Args:
        model: As in `load_model`.
        revision: For a hub id.
        min_pixels: Lower bound of a resized frame's area; the model's own when omitted.
        max_pixels: Upper bound.

    Raises:
        ModelLoadError: files missing or not fitting.
    """
    source = model if isinstance(model, ModelSource) else resolve_model(model, revision)
    return QwenFramePreprocessor.load(source, min_pixels=min_pixels, max_pixels=max_pixels)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or isinstance(dtype, torch.dtype):
        return dtype
    if dtype not in _DTYPES:
        raise ConfigurationError(f"dtype {dtype!r} is none of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]
