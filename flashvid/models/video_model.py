"""The handle on a video LLM: encodes frames, compresses visual tokens, and answers questions."""

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
    """A loaded model, or one side of it. Using it does not change it.

    Attributes:
        source: The files of the model.
        device: The device that it runs on.
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
        """The precision of weights, features and tokens."""
        return (self.vision if self._vision is not None else self.language).dtype

    @property
    def tensors_read(self) -> tuple[str, ...]:
        """Names of the tensors that were read from disk."""
        return tuple(self._checkpoint.tensors_read)

    @property
    def bytes_read(self) -> int:
        """Bytes of these tensors, as stored."""
        return self._checkpoint.bytes_read

    @property
    def vision(self) -> VisionSide:
        """The vision side, for uses that this handle has no method for.

        Raises:
            ConfigurationError: The vision side is not loaded.
        """
        if self._vision is None:
            raise ConfigurationError("the vision side is not loaded: load_model(..., part='vision' or 'all')")
        return self._vision

    @property
    def language(self) -> LanguageSide:
        """The language side, for uses that this handle has no method for.

        Raises:
            ConfigurationError: The language side is not loaded.
        """
        if self._language is None:
            raise ConfigurationError("the language side is not loaded: load_model(..., part='language' or 'all')")
        return self._language

    def encode(self, frames: NDArray[np.uint8] | Tensor, timestamps: ArrayLike) -> VisualFeatures:
        """Run the vision side on one video; threads wait for each other.

        Args:
            frames: uint8 `[F, H, W, 3]`, RGB, of any size; resized unless they have the target size.
            timestamps: `[F]`, seconds, not descending.

        Raises:
            InvalidFeaturesError: Frames or timestamps have another shape, dtype or order.
            ConfigurationError: The vision side is not loaded.
        """
        return self.vision.encode(*checked_frames(frames, timestamps))

    def compress(self, visual: VisualFeatures, config: CompressionConfig | None) -> CompressedVideo:
        """Compress the visual tokens of one video.

        Args:
            visual: The result of `encode`.
            config: Settings of the compression; None keeps every token.

        Raises:
            InvalidFeaturesError: See `flashvid.compress`.
            ConfigurationError: See `flashvid.compress`.
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
        """Answer questions about one video, whose tokens are prefilled once for all questions.

        An answer does not depend on the other questions, nor on their order.

        Args:
            compressed: The result of `compress`, or rebuilt from storage; None for questions without a video.
            questions: The texts of the user's turns, without the video.
            generation: Settings of the generation.
            pruning: Pruning inside the decoder; None for none.
            options: For each question its options, or None; used if `generation.choice` is "likelihood".
            keys: As in `ClipQuestions`.
            max_batch_tokens: Upper bound of the tokens in memory together, lowered if a GPU lacks the memory; does not
                change answers.

        Returns:
            One answer per question, in order.

        Raises:
            ConfigurationError: The language side is not loaded; the model does not allow the pruning; the numbers of
                options or keys and of questions differ, or an option is empty; the schema can't be enforced; the
                template does not place exactly one video; or a question holds videos, images or further turns.
            InvalidFeaturesError: Tokens have another width than this model's or are not finite, or their indices, grid
                or timestamps do not fit them.
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
            generation: As in `answer`.
            pruning: As in `answer`.
            max_batch_tokens: As in `answer`.

        Returns:
            One answer per question of each clip, in order.

        Raises:
            ConfigurationError: See `answer`.
            InvalidFeaturesError: See `answer`.
        """
        # Importing this module imports transformers, which a handle of the vision side alone need not wait for.
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
        """Compute the log-likelihood of given texts as answers, token by token; nothing is generated.

        Pruning keeps what the last token of the question attends to, so all continuations of a question see the same.

        Args:
            compressed: As in `answer`.
            questions: As in `answer`.
            continuations: For each question the texts to score, each as the beginning of the assistant's turn.
            generation: Only its system prompt, template and `reference_compatible` are used.
            pruning: As in `answer`.

        Returns:
            One `ScoredText` per continuation of each question, in order.

        Raises:
            ConfigurationError: See `answer`; or a question has no continuations, or an empty one.
            InvalidFeaturesError: See `answer`.
        """
        from flashvid.engine.answering import check_clip, score_clip

        clip = ClipQuestions(compressed, questions, continuations)
        check_clip(clip, self.hidden_size, self._num_deepstack)
        return score_clip(self.language, clip, generation or GenerationConfig(), pruning)
