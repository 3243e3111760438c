"""What goes into the engine and what comes out, and what it needs of a family's language side."""

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
    """Every visual token of a clip, as the language model would get them without compression.

    Attributes:
        features: `[T, N, D]` in the model's dtype: vision tower and projector.
        scores: `[T, N]` float32: the attention each token receives in the last vision block (spec 7).
        grid_thw: Temporal steps, and rows and columns of patches (before they are merged into tokens).
        frame_timestamps: `[F]` float64, seconds.
        deepstack: Features of earlier vision layers, each `[T * N, D]`, that the first decoder layers add (spec 8).
    """

    features: Tensor
    scores: Tensor
    grid_thw: tuple[int, int, int]
    frame_timestamps: NDArray[np.float64]
    deepstack: tuple[Tensor, ...] = ()

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Rows and columns of tokens in a temporal step."""
        _, rows, columns = self.grid_thw
        merge_size = math.isqrt(rows * columns // self.features.shape[1])
        return rows // merge_size, columns // merge_size


@dataclass(frozen=True, eq=False)
class CompressedVideo:
    """The visual tokens of a clip that are kept; all that answering needs to know of the video.

    Attributes:
        tokens: `[M, D]`.
        indices: `[M]` int64, ascending: where each token stands among the T * N tokens.
        assignment: `[T * N]` int64: the slot (0 to M - 1) each token was kept as or merged into, -1 if dropped.
        grid_thw: As in `VisualFeatures`.
        frame_timestamps: `[F]` float64, seconds.
        segment_lengths: Temporal steps per segment.
        deepstack: As in `VisualFeatures`, at the kept indices only, each `[M, D]`: neither merged nor averaged.
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
        """A clip and what a compression kept of it."""
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
    """A video and what is asked about it.

    Attributes:
        compressed: The video; None for questions about none.
        questions: What the user asks, without the video.
        options: For each question its choices, or None; used where `choice` is by likelihood.
        keys: For each question a name of its random stream, unique among clips; made of the clip's tokens and its own
            text when omitted, so that a question asked twice draws the same.
    """

    compressed: CompressedVideo | None
    questions: Sequence[str]
    options: Sequence[Sequence[str] | None] | None = None
    keys: Sequence[str] | None = None


@dataclass(frozen=True)
class TokenLayers:
    """Work of the decoder: tokens times the layers they ran through.

    Attributes:
        shared: Once for all questions asked together in the same words before the video.
        prompt: For this question's prompt, on top of what is shared: with inner pruning also the visual tokens it kept.
        generated: For the tokens of this answer, or of its options.
        visual: Of its prompt's visual tokens alone, shared or not: divided by the number of layers, how many of them a
            layer saw on average.
    """

    shared: int
    prompt: int
    generated: int
    visual: int


@dataclass(frozen=True)
class Answer:
    """The answer to one question, with its accounting.

    Of the prompt, `num_shared_tokens` were prefilled once for all questions asked together, the rest for this one.

    Attributes:
        response: The generated text, up to a stop text; or the likeliest option.
        finish_reason: "stop" if the model or a stop text ended its turn or its JSON is whole, "length" if
            `max_new_tokens` ended it, "choice" if it is an option.
        num_visual_tokens: Visual tokens in the prompt.
        num_prompt_tokens: Tokens in the prompt, visual ones included.
        num_shared_tokens: Of those, the tokens up to the last visual one; none without a video.
        num_generated_tokens: Tokens generated, an end token included; 0 for an option.
        token_layers: What the decoder did for it.
        option_scores: For `choice` by likelihood: the log-likelihood of every option, the sum over its tokens.
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
    """How likely a text is as the continuation of a prompt.

    Attributes:
        ids: Its S tokens.
        log_likelihoods: Of each of them, given the prompt and the tokens before it; natural logarithms.
    """

    ids: tuple[int, ...]
    log_likelihoods: tuple[float, ...]

    @property
    def log_likelihood(self) -> float:
        """Of the whole text: the sum over its tokens."""
        return math.fsum(self.log_likelihoods)


class Chat(Protocol):
    """A tokenizer with a chat template: questions to token ids, answers to text.

    Attributes:
        end_tokens: Ids that end an answer.
    """

    end_tokens: frozenset[int]

    @property
    def constraint(self) -> LLTokenizer:
        """The tokenizer as JSON grammars use it."""

    def around_video(
        self, question: str, system_prompt: str, template: str | None = None
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Token ids of a question's prompt before and after its visual tokens."""

    def without_video(self, question: str, system_prompt: str, template: str | None = None) -> tuple[int, ...]:
        """Token ids of the prompt of a question about no video."""

    def continuation(self, text: str) -> tuple[int, ...]:
        """Token ids of a text as the assistant would write it."""

    def text(self, ids: Sequence[int]) -> str:
        """Generated ids as text, without special tokens."""


class LanguageSide(Protocol):
    """Decoder, output head and tokenizer, and how a family lays out a prompt around a video.

    A prompt is laid out from its token ids `before` and `after` the place of the video.
    """

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and embeddings."""

    @property
    def decoder(self) -> Decoder:
        """Runs what is laid out."""

    @property
    def chat(self) -> Chat:
        """Makes token ids of questions, and text of answers."""

    def prefix(self, before: tuple[int, ...], compressed: CompressedVideo) -> SharedPrefix:
        """What the decoder gets up to the last visual token."""

    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """What the decoder gets behind that."""

    def reference_compatible(self) -> LanguageSide:
        """The same side, laying out prompts as the published implementation does where ours differ (spec 10)."""
