"""Inputs and outputs of the engine, and the interface of a family's language side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from llguidance import LLTokenizer
    from torch import Tensor

    from flashvid.compression.result import CompressionResult
    from flashvid.engine.decoder import Decoder
    from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix

FinishReason = Literal["stop", "length", "choice"]


@dataclass(frozen=True, eq=False)
class VisualFeatures:
    """Every visual token of a clip, as the LLM would get them without compression.

    Attributes:
        features: `[T, N, D]` in the model's dtype: output of vision tower and projector.
        scores: `[T, N]` float32: the attention each token receives in the last vision block (docs/flashvid.md,
            section 7).
        grid_thw: Temporal steps, and rows and columns of patches (before they are merged into tokens).
        frame_timestamps: `[F]` float64, seconds.
        deepstack: Features of earlier vision layers, `[T * N, D]` each, that the first decoder layers add
            (docs/flashvid.md, section 8).
    """

    features: Tensor
    scores: Tensor
    grid_thw: tuple[int, int, int]
    frame_timestamps: NDArray[np.float64]
    deepstack: tuple[Tensor, ...] = ()

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Return the rows and columns of tokens in a temporal step."""
        _, rows, columns = self.grid_thw
        merge_size = math.isqrt(rows * columns // self.features.shape[1])
        return rows // merge_size, columns // merge_size


@dataclass(frozen=True, eq=False)
class CompressedVideo:
    """The visual tokens of a clip that are kept: all that answering needs of the video.

    Attributes:
        tokens: `[M, D]`.
        indices: `[M]` int64, ascending: index of each token among the T * N tokens.
        assignment: `[T * N]` int64: the slot (0 to M - 1) each token was kept as or merged into, -1 if dropped.
        grid_thw: As in `VisualFeatures`.
        frame_timestamps: `[F]` float64, seconds.
        segment_lengths: Temporal steps per segment.
        deepstack: As in `VisualFeatures`, at the kept indices only, `[M, D]` each: neither merged nor averaged.
    """

    tokens: Tensor
    indices: Tensor
    assignment: Tensor
    grid_thw: tuple[int, int, int]
    frame_timestamps: NDArray[np.float64]
    segment_lengths: tuple[int, ...]
    deepstack: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, visual: VisualFeatures, result: CompressionResult) -> CompressedVideo:
        """Return the tokens of a clip that a compression kept."""
        return cls(
            result.tokens,
            result.indices,
            result.assignment,
            visual.grid_thw,
            visual.frame_timestamps,
            result.segment_lengths,
            tuple(level[result.indices] for level in visual.deepstack),
        )


@dataclass(frozen=True, eq=False)
class ClipQuestions:
    """A video and the questions about it.

    Attributes:
        compressed: The video; None for questions without a video.
        questions: The texts of the questions.
        options: For each question its choices, or None; used if `choice` is "likelihood".
        keys: For each question the name of its random stream, unique among clips. By default it is made of the clip's
            tokens and the question's text, so that a question asked twice draws the same.
    """

    compressed: CompressedVideo | None
    questions: Sequence[str]
    options: Sequence[Sequence[str] | None] | None = None
    keys: Sequence[str] | None = None


@dataclass(frozen=True)
class TokenLayers:
    """Work of the decoder: tokens times the layers they ran through.

    Attributes:
        shared: Work for the shared prefix, done once for all questions with the same text before the video.
        prompt: Work for the rest of this question's prompt; with inner pruning also for the visual tokens it kept.
        generated: Work for the tokens of this answer, or of its options.
        visual: Work for the visual tokens of the prompt alone, shared or not. Divided by the number of layers, it is
            the average number of visual tokens per layer.
    """

    shared: int
    prompt: int
    generated: int
    visual: int


@dataclass(frozen=True)
class Answer:
    """The answer to one question, with its accounting.

    Attributes:
        response: The generated text up to a stop text, or the likeliest option.
        finish_reason: "stop" if the model or a stop text ended the answer or its JSON is complete, "length" if
            `max_new_tokens` ended it, "choice" if it is an option.
        num_visual_tokens: Visual tokens in the prompt.
        num_prompt_tokens: Tokens in the prompt, visual ones included.
        num_shared_tokens: Tokens of the prompt up to the last visual one, prefilled once for all questions asked
            together; 0 without a video.
        num_generated_tokens: Tokens generated, an end token included; 0 for an option.
        token_layers: Work of the decoder.
        option_scores: With `choice` "likelihood": the log-likelihood of every option, summed over its tokens.
    """

    response: str
    finish_reason: FinishReason
    num_visual_tokens: int
    num_prompt_tokens: int
    num_shared_tokens: int
    num_generated_tokens: int
    token_layers: TokenLayers
    option_scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class ScoredText:
    """The likelihood of a text as the continuation of a prompt.

    Attributes:
        ids: The S tokens of the text.
        log_likelihoods: Natural logarithm of the likelihood of each token, given the prompt and the tokens before it.
    """

    ids: tuple[int, ...]
    log_likelihoods: tuple[float, ...]

    @property
    def log_likelihood(self) -> float:
        """Return the log-likelihood of the whole text: the sum over its tokens."""
        return math.fsum(self.log_likelihoods)


class Chat(Protocol):
    """A tokenizer with a chat template: questions to token ids, answers to text.

    Attributes:
        end_tokens: Token ids that end an answer.
    """

    end_tokens: frozenset[int]

    @property
    def constraint(self) -> LLTokenizer:
        """Return the tokenizer in the form that JSON grammars use."""

    def around_video(
        self, question: str, system_prompt: str, template: str | None = None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the token ids of a question's prompt before and after its visual tokens."""

    def without_video(self, question: str, system_prompt: str, template: str | None = None) -> tuple[int, ...]:
        """Return the token ids of the prompt of a question without a video."""

    def continuation(self, text: str) -> tuple[int, ...]:
        """Return the token ids of a text written by the assistant."""

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of generated ids, without special tokens."""


class LanguageSide(Protocol):
    """Decoder, output head and tokenizer, and a family's layout of a prompt around a video.

    A prompt is laid out from its token ids `before` and `after` the video.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of weights and embeddings."""

    @property
    def decoder(self) -> Decoder:
        """Return the decoder that runs prompts."""

    @property
    def chat(self) -> Chat:
        """Return the tokenizer with its chat template."""

    def prefix(self, before: tuple[int, ...], compressed: CompressedVideo) -> SharedPrefix:
        """Return the prompt up to the last visual token."""

    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """Return the prompt after the last visual token."""

    def reference_compatible(self) -> LanguageSide:
        """Return the same side with the prompt layout of the published implementation (docs/flashvid.md, section 8)."""
