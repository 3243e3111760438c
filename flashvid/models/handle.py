"""The handle on a video LLM: frames to visual features, features to fewer tokens, tokens and questions to answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flashvid.compression import compress
from flashvid.config import CompressionConfig, InnerPruningConfig
from flashvid.errors import ConfigurationError
from flashvid.models.devices import refuse_too_large, usable_device
from flashvid.models.families import family_named
from flashvid.models.frames import checked_frames
from flashvid.models.sources import ModelSource, resolve_model
from flashvid.models.types import (
    Answer,
    ClipQuestions,
    CompressedVideo,
    FramePreprocessor,
    GenerationConfig,
    LanguageSide,
    LoadOptions,
    Part,
    VisionSide,
    VisualFeatures,
)
from flashvid.models.weights import Checkpoint

# Tokens in memory together while answering: 1.9 GB of keys and values for Qwen2.5-VL-7B in bfloat16.
MAX_BATCH_TOKENS = 32768

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class VideoModel:
    """A loaded model, or one side of it. Nothing in it changes by being used.

    Attributes:
        source: Which model it is.
        device: Where it runs.
        hidden_size: Width D of a visual token.
    """

    def __init__(
        self,
        source: ModelSource,
        vision: VisionSide | None,
        language: LanguageSide | None,
        *,
        device: torch.device,
        checkpoint: Checkpoint,
    ) -> None:
        self.source = source
        self.device = device
        self.hidden_size = family_named(source.family).hidden_size(source.config())
        self._vision = vision
        self._language = language
        self._checkpoint = checkpoint

    @property
    def family(self) -> str:
        """Name of the model's family, for instance ``qwen2_5_vl``."""
        return self.source.family

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, the features and the tokens."""
        return (self.vision if self._vision is not None else self.language).dtype

    @property
    def tensors_read(self) -> tuple[str, ...]:
        """Names of the tensors that were read from disk."""
        return tuple(self._checkpoint.tensors_read)

    @property
    def bytes_read(self) -> int:
        """Their bytes, as stored."""
        return self._checkpoint.bytes_read

    @property
    def vision(self) -> VisionSide:
        """The vision side, for what this handle has no method for.

        Raises:
            ConfigurationError: it was not loaded.
        """
        if self._vision is None:
            raise ConfigurationError("the vision side is not loaded: load_model(..., part='vision' or 'all')")
        return self._vision

    @property
    def language(self) -> LanguageSide:
        """The language side, for what this handle has no method for.

        Raises:
            ConfigurationError: it was not loaded.
        """
        if self._language is None:
            raise ConfigurationError("the language side is not loaded: load_model(..., part='language' or 'all')")
        return self._language

    def encode(self, frames: NDArray[np.uint8] | Tensor, timestamps: ArrayLike) -> VisualFeatures:
        """Run the vision side.

        Args:
            frames: uint8 `[F, H, W, 3]`, RGB, at any size: they are resized as the family does it, unless they are.
            timestamps: `[F]` seconds, not descending.

        Raises:
            InvalidFeaturesError: frames or timestamps of another shape, dtype or order.
            ConfigurationError: the vision side was not loaded.
        """
        return self.vision.encode(*checked_frames(frames, timestamps))

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
            everything = torch.arange(steps * num_tokens, device=visual.features.device)
            tokens, indices, assignment = visual.features.reshape(-1, width), everything, everything.clone()
            segment_lengths: tuple[int, ...] = (steps,)
        else:
            result = compress(visual.features, visual.scores, config, grid_hw=visual.grid_hw)
            tokens, indices, assignment = result.tokens, result.indices, result.assignment
            segment_lengths = result.segment_lengths
        deepstack = tuple(level[indices] for level in visual.deepstack)
        return CompressedVideo(
            tokens, indices, assignment, visual.grid_thw, visual.frame_timestamps, segment_lengths, deepstack
        )

    def answer(
        self,
        compressed: CompressedVideo,
        questions: Sequence[str],
        generation: GenerationConfig | None = None,
        *,
        pruning: InnerPruningConfig | None = None,
        options: Sequence[Sequence[str] | None] | None = None,
        keys: Sequence[str] | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> list[Answer]:
        """Answer questions about one video; its tokens are prefilled once for all of them.

        An answer does not depend on which other questions are asked with it, nor on their order.

        Args:
            compressed: From `compress`, or rebuilt from storage.
            questions: What the user asks, without the video.
            generation: Settings of the generation.
            pruning: Inside the decoder; None for none.
            options: For each question its choices, or None; used where `generation.choice` is by likelihood.
            keys: For each question a name of its random stream, unique among clips; its own text when omitted.
            max_batch_tokens: Bound of the tokens that are in memory together; changes no answer.

        Returns:
            One answer per question, in order.

        Raises:
            ConfigurationError: the language side was not loaded; pruning that the model does not allow; not as many
                options or keys as questions, or an option without text; a schema that can't be enforced, a template
                that does not place one video; several videos or images in a question, or further turns.
            InvalidFeaturesError: tokens of another width than this model's, or indices that are not theirs.
        """
        clip = ClipQuestions(compressed, questions, options, keys)
        return self.answer_many([clip], generation, pruning=pruning, max_batch_tokens=max_batch_tokens)[0]

    def answer_many(
        self,
        clips: Sequence[ClipQuestions],
        generation: GenerationConfig | None = None,
        *,
        pruning: InnerPruningConfig | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
    ) -> list[list[Answer]]:
        """Answer questions about several videos in one batch, each as `answer` would.

        Args:
            clips: Videos with their questions.
            generation: Settings of the generation.
            pruning: Inside the decoder; None for none.
            max_batch_tokens: As in `answer`.

        Returns:
            Per clip one answer per question, in order.

        Raises:
            ConfigurationError: see `answer`.
            InvalidFeaturesError: see `answer`.
        """
        # It loads transformers, which a handle of the vision side does not need from here.
        from flashvid.models.answering import answer_clips, check_clip

        language = self.language
        if max_batch_tokens < 1:
            raise ConfigurationError(f"max_batch_tokens is {max_batch_tokens}: it must be at least 1")
        for clip in clips:
            check_clip(clip, self.hidden_size)
        return answer_clips(language, clips, generation or GenerationConfig(), pruning, max_batch_tokens)


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
    """Load a video LLM, or the half of it that a process needs.

    Args:
        model: Embedded name, local directory, hub id, or what `resolve_model` returned.
        revision: For a hub id.
        part: "vision" and "language" read only their tensors from disk.
        dtype: float32, bfloat16 or float16; the checkpoint's own when omitted.
        device: Default: cuda if there is one, else cpu.
        attn_implementation: Transformers' name of one (eager, sdpa, flash_attention_2); its choice when omitted.
        min_pixels: Lower bound of a resized frame's area; the model's own when omitted.
        max_pixels: Upper bound.

    Raises:
        ModelLoadError: files missing or not fitting, or more than the device has room for.
        ConfigurationError: an unknown part, dtype, device or attention implementation, or bounds that exclude each
            other.
    """
    if part not in get_args(Part):
        raise ConfigurationError(f"part {part!r} is none of {', '.join(get_args(Part))}")
    precision = _named_dtype(dtype)
    source = model if isinstance(model, ModelSource) else resolve_model(model, revision)
    options = LoadOptions(
        dtype=precision or _stored_dtype(source),
        device=usable_device(device),
        attn_implementation=attn_implementation,
        min_pixels=min_pixels,
        max_pixels=max_pixels,
    )
    family, checkpoint = family_named(source.family), source.checkpoint()
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
    """A family's preprocessing, without its weights.

    Args:
        model: As in `load_model`.
        revision: For a hub id.
        min_pixels: Lower bound of a resized frame's area; the model's own when omitted.
        max_pixels: Upper bound.

    Raises:
        ModelLoadError: files missing or not fitting.
        ConfigurationError: bounds that exclude each other.
    """
    source = model if isinstance(model, ModelSource) else resolve_model(model, revision)
    return family_named(source.family).load_preprocessor(source, min_pixels=min_pixels, max_pixels=max_pixels)


def _named_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None:
        return None
    known = _DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if known not in _DTYPES.values():
        raise ConfigurationError(f"dtype {dtype} is none of {', '.join(_DTYPES)}")
    return known


def _stored_dtype(source: ModelSource) -> torch.dtype | None:
    """The precision that a model's configuration names; None leaves each tensor as it is stored."""
    config = source.config()
    named = config.get("dtype") or config.get("torch_dtype")
    return _DTYPES.get(named) if isinstance(named, str) else None
