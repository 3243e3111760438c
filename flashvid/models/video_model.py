"""The handle on a video LLM: frames to visual features, features to fewer tokens, tokens and questions to answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from flashvid.compression.api import compress
from flashvid.compression.result import CompressionResult
from flashvid.config import CompressionConfig, InnerPruningConfig
from flashvid.engine.constants import MAX_BATCH_TOKENS
from flashvid.engine.generation_config import GenerationConfig
from flashvid.engine.types import Answer, ClipQuestions, CompressedVideo, LanguageSide, ScoredText, VisualFeatures
from flashvid.errors import ConfigurationError
from flashvid.models.devices import fitting_tokens
from flashvid.models.family import VisionSide
from flashvid.models.frames import checked_frames
from flashvid.models.registry import FAMILIES
from flashvid.models.source import ModelSource
from flashvid.models.weights import Checkpoint


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
        family, config = FAMILIES[source.family], source.config()
        self.hidden_size = family.hidden_size(config)
        self._num_deepstack = family.num_deepstack(config)
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
        """Run the vision side; threads wait for each other.

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
        if config is not None:
            return CompressedVideo.of(visual, compress(visual.features, visual.scores, config, grid_hw=visual.grid_hw))
        steps, num_tokens, width = visual.features.shape
        everything = torch.arange(steps * num_tokens, device=visual.features.device)
        tokens = visual.features.reshape(-1, width)
        return CompressedVideo.of(visual, CompressionResult(tokens, everything, everything.clone(), (steps,)))

    def answer(
        self,
        compressed: CompressedVideo | None,
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
            compressed: From `compress`, or rebuilt from storage; None for questions about no video.
            questions: What the user asks, without the video.
            generation: Settings of the generation.
            pruning: Inside the decoder; None for none.
            options: For each question its choices, or None; used where `generation.choice` is by likelihood.
            keys: As in `ClipQuestions`.
            max_batch_tokens: Bound of the tokens that are in memory together, lower where a GPU has not the room;
                changes no answer.

        Returns:
            One answer per question, in order.

        Raises:
            ConfigurationError: the language side was not loaded; pruning that the model does not allow; not as many
                options or keys as questions, or an option without text; a schema that can't be enforced, a template
                that does not place one video; several videos or images in a question, or further turns.
            InvalidFeaturesError: tokens of another width than this model's or not finite, or indices, a grid or times
                that are not theirs.
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
        from flashvid.engine.answering import answer_clips, check_clip

        language = self.language
        if max_batch_tokens < 1:
            raise ConfigurationError(f"max_batch_tokens is {max_batch_tokens}: it must be at least 1")
        for clip in clips:
            check_clip(clip, self.hidden_size, self._num_deepstack)
        bound = fitting_tokens(max_batch_tokens, language.decoder.token_bytes, self.device)
        return answer_clips(language, clips, generation or GenerationConfig(), pruning, bound)

    def score(
        self,
        compressed: CompressedVideo | None,
        questions: Sequence[str],
        continuations: Sequence[Sequence[str]],
        generation: GenerationConfig | None = None,
        *,
        pruning: InnerPruningConfig | None = None,
    ) -> list[list[ScoredText]]:
        """How likely given texts are as answers, token by token; nothing is generated.

        With pruning, a question's last token decides what is kept, so that its continuations see the same.

        Args:
            compressed: As in `answer`.
            questions: As in `answer`.
            continuations: For each question the texts to score, each as the assistant would begin its turn.
            generation: Its system prompt, template and `reference_compatible` count; how tokens are chosen does not.
            pruning: Inside the decoder; None for none.

        Returns:
            Per question one `ScoredText` per continuation, in order.

        Raises:
            ConfigurationError: see `answer`; a question without continuations, or one without text.
            InvalidFeaturesError: see `answer`.
        """
        from flashvid.engine.answering import check_clip, score_clip

        clip = ClipQuestions(compressed, questions, continuations)
        check_clip(clip, self.hidden_size, self._num_deepstack)
        return score_clip(self.language, clip, generation or GenerationConfig(), pruning)
