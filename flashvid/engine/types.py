"""What goes into a model handle and what comes out, the same for every family, and the two sides behind it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from flashvid.engine.json_grammar import schema_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from flashvid.compression.result import CompressionResult
    from flashvid.engine.decoder import Decoder
    from flashvid.engine.lm_input import QuestionSuffix, SharedPrefix
    from flashvid.models.chat import ChatPrompt

Part = Literal["all", "vision", "language"]
FinishReason = Literal["stop", "length", "choice"]


class GenerationConfig(BaseModel):
    """How answers are made, from the model's own chat template or another: greedily, unless a temperature is given.

    With a temperature, every clip and question has a random stream of its own, derived from `seed`: an answer does
    not depend on what is answered with it, and comes out the same when it is asked again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_new_tokens: int = Field(default=64, ge=1, description="tokens after which an answer is cut")
    system_prompt: str = Field(default="You are a helpful assistant.", description="the system's turn")
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="Jinja text in place of the model's own template; it gets the same messages, and must write the "
        "model's placeholder of a video once",
    )
    temperature: float = Field(default=0.0, ge=0.0, description="0: the most likely token; else logits are divided")
    top_k: int | None = Field(default=None, ge=1, description="draw from this many most likely tokens; all if not set")
    top_p: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="draw from the fewest tokens that have this much of the probability, after top_k",
    )
    seed: int = Field(default=0, ge=0, description="of the random streams; no effect without a temperature")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="an answer ends before the first of these texts in it"
    )
    choice: Literal["letter", "likelihood"] = Field(
        default="letter",
        description="questions with options: the model writes its answer (letter), or the option wins whose tokens are "
        "the likeliest continuation of the prompt (likelihood)",
    )
    reference_compatible: bool = Field(
        default=False,
        description="Qwen3-VL: leave out the markers around the steps of a compressed video, as the published "
        "implementation does",
    )
    # Kept as text: that is hashable and can't be changed, and the order of its keys counts.
    json_schema: Annotated[str, BeforeValidator(schema_text)] | None = Field(
        default=None, description="answers are JSON that satisfies this schema, a mapping or JSON text"
    )

    @model_validator(mode="after")
    def _json_is_not_cut(self) -> Self:
        if self.json_schema is not None and self.stop:
            raise ValueError("stop and json_schema exclude each other: a stop text would cut the JSON")
        return self


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


class FramePreprocessor(Protocol):
    """A family's preprocessing of frames: needs no weights."""

    def for_video(self, num_frames: int) -> FramePreprocessor:
        """For frames of a video of so many that are given a few at a time: some families' sizes hang on the number."""

    def target_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width in pixels to which frames of a given height and width are resized."""

    def token_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Temporal steps, and rows and columns of tokens, of a video of so many frames of that height and width."""

    def resize(self, frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames uint8 `[F, H, W, 3]` at target size; the same array if they have it."""


@dataclass(frozen=True)
class LoadOptions:
    """How to load a side of a model.

    Attributes:
        dtype: To convert weights to; None keeps the stored.
        device: Where it runs.
        attn_implementation: Transformers' name of one; None for transformers' choice.
        min_pixels: Lower bound of a resized frame's area; the model's own when None.
        max_pixels: Upper bound.
    """

    dtype: torch.dtype | None
    device: torch.device
    attn_implementation: str | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None


class VisionSide(Protocol):
    """Vision tower and projector."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and features."""

    def encode(self, frames: NDArray[np.uint8], timestamps: NDArray[np.float64]) -> VisualFeatures:
        """See `VideoModel.encode`; the frames and timestamps have been checked."""


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
    def chat(self) -> ChatPrompt:
        """Makes token ids of questions, and text of answers."""

    def prefix(self, before: tuple[int, ...], compressed: CompressedVideo) -> SharedPrefix:
        """What the decoder gets up to the last visual token."""

    def suffix(self, before: tuple[int, ...], after: tuple[int, ...], compressed: CompressedVideo) -> QuestionSuffix:
        """What the decoder gets behind that."""

    def reference_compatible(self) -> LanguageSide:
        """The same side, laying out prompts as the published implementation does where ours differ (spec 10)."""
