"""The least work of answering: FLOPs and bytes counted from a model's size and a prompt's lengths, and their time.

A multiplication and an addition are two operations. Attention is counted as needed: a token with itself and the tokens
before it. Bytes are those that layers pass between matrix products (norms, residuals, rotary embedding, activation),
each read or written once per operation, as without fusing kernels, and the weights, once for each time that tokens go
through them together; in decoding the cache, too.
Activations and the probabilities of the scores are counted too: their exponentials take longer than their bytes, which
are among the others (a hundredth of the time of either, counted twice).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from jobs.lab.answers_model import ModelSize


@dataclass(frozen=True)
class Work:
    """Work of a part of the pipeline: `products` and `attention` in operations, `moved` in bytes, the others in values.

    `step_bytes` are the weights, and in decoding the cache: the slower of these and the products decides.
    """

    products: float = 0.0
    attention: float = 0.0
    moved: float = 0.0
    activations: float = 0.0
    step_bytes: float = 0.0
    probabilities: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Return the sum."""
        return Work(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def times(self, number: int) -> Work:
        """Return the same work several times."""
        return Work(*(number * getattr(self, field.name) for field in fields(self)))

    @property
    def flops(self) -> float:
        """Operations of products and attention."""
        return self.products + self.attention


@dataclass(frozen=True)
class Rates:
    """Rates of a machine per second: operations of products and of attention, bytes moved, values of the others."""

    products: float
    attention: float
    bytes: float
    activations: float = math.inf
    probabilities: float = math.inf

    def seconds(self, work: Work) -> float:
        """Return the least time of one part.

        Args:
            work: Its products and its attention wait for `step_bytes`.
        """
        computing = work.products / self.products + work.attention / self.attention
        beside = work.moved / self.bytes + work.activations / self.activations + work.probabilities / self.probabilities
        return max(computing, work.step_bytes / self.bytes) + beside


@dataclass(frozen=True)
class PartRates:
    """Rates of every part of `Parts`."""

    encode: Rates
    compress: Rates
    prefix: Rates
    questions: Rates
    decode: Rates

    @classmethod
    def same(cls, rates: Rates) -> PartRates:
        """Return the same rates for all parts."""
        return cls(*[rates] * len(fields(cls)))


# One H100 SXM: 989 TFLOP/s in bfloat16 and 3.35 TB/s (NVIDIA's data sheet). Good kernels reach
# half of the first and four fifths of the second; exponentials overlap with moving the bytes.
H100 = Rates(0.5 * 989e12, 0.5 * 989e12, 0.8 * 3.35e12)
# In float32, in which compression decides, 67 TFLOP/s.
H100_FLOAT32 = Rates(0.5 * 67e12, 0.5 * 67e12, H100.bytes)
H100_PARTS = replace(PartRates.same(H100), compress=H100_FLOAT32)
_FLOAT32 = 4


@dataclass(frozen=True)
class AskedQuestion:
    """Lengths of one question's prompt and answer.

    Attributes:
        tokens: Of its own part of the prompt.
        generated: Tokens of its answer, at least one.
        behind: Tokens that the layers after the inner pruning run for it; 0 without.
    """

    tokens: int
    generated: int
    behind: int = 0


def encoding(size: ModelSize, num_frames: int, *, scores: bool) -> Work:
    """Return the work of tower and projector.

    Args:
        size: Of the model.
        num_frames: Encoded.
        scores: Whether the attention that tokens receive is computed too, which repeats the last block's queries, keys
            and their products.
    """
    area, width, mlp = size.patches**2, size.vision_width, size.vision_mlp
    patches = num_frames * area
    layer = Work(
        patches * 2 * (4 * width**2 + 2 * width * mlp),
        patches * 4 * area * width,
        patches * size.value_bytes * (10 * width + 2 * mlp),
        patches * mlp,
    )
    projector = Work(patches * 2 * (width * size.width + size.width**2), 0, patches * size.value_bytes * 3 * size.width)
    probabilities = patches * area * size.vision_heads
    # Products, scaled in place, to float32 probabilities, added up.
    passed = probabilities * (4 * size.value_bytes + 2 * _FLOAT32)
    again = Work(patches * 4 * width**2, patches * 2 * area * width, passed, probabilities=probabilities)
    parameters = size.vision_layers * (4 * width**2 + 2 * width * mlp) + width * size.width + size.width**2
    weights = Work(step_bytes=parameters * size.value_bytes)
    return layer.times(size.vision_layers) + projector + weights + (again if scores else Work())


def compression(size: ModelSize, num_frames: int) -> Work:
    """Return the work of the products that the method needs: within each frame, and of each frame with the next.

    In float32: features are read, widened and written, then read for either kind of products, which are written and
    read.
    """
    tokens, pairs = size.frame_tokens, 2 * num_frames - 1
    features = num_frames * tokens * size.width * (size.value_bytes + 3 * _FLOAT32)
    return Work(2 * tokens**2 * size.width * pairs, moved=features + 2 * _FLOAT32 * pairs * tokens**2)


def layer_parameters(size: ModelSize) -> int:
    """Return the number of weights in the matrix products of one decoder layer."""
    head_dim = size.width // size.heads
    return 2 * size.width * (size.width + size.kv_heads * head_dim) + 3 * size.width * size.mlp


def prefill(size: ModelSize, before: int, tokens: int, layers: int) -> Work:
    """Return the work of some tokens together, after `before` others, in some decoder layers."""
    if not tokens:
        return Work()
    kv_width = size.kv_heads * size.width // size.heads
    one = Work(
        tokens * 2 * layer_parameters(size),
        4 * size.width * (tokens * before + tokens * (tokens + 1) / 2),
        tokens * size.value_bytes * (12 * size.width + 4 * kv_width + 5 * size.mlp),
        tokens * size.mlp,
        layer_parameters(size) * size.value_bytes,
    )
    return one.times(layers)


def prefill_together(size: ModelSize, before: int, lengths: Sequence[int], layers: int, *, rows: int) -> Work:
    """Return the work of several prompts, each after its own `before`; weights are read once per `rows` tokens."""
    each = sum((prefill(size, before, tokens, layers) for tokens in lengths), Work())
    blocks = -(-sum(lengths) // rows)
    return replace(each, step_bytes=blocks * layers * layer_parameters(size) * size.value_bytes)


def decoding_bytes(size: ModelSize) -> int:
    """Return the bytes of the weights that a decoding step reads."""
    return (size.layers * layer_parameters(size) + size.width * size.vocabulary) * size.value_bytes


def decoding(
    size: ModelSize,
    prompt: int,
    questions: Sequence[AskedQuestion],
    *,
    rows: int,
    behind: int = 0,
    text: int = 0,
    copies: int | None = None,
) -> Work:
    """Return the work of decoding answers after a shared prompt; an answer's first token comes from its prefill.

    Args:
        size: Of the model.
        prompt: Tokens before each question's own.
        questions: Their lengths.
        rows: Answers that are decoded together.
        behind: Number of last layers, which hold `text` and `AskedQuestion.behind` tokens instead.
        text: The prompt's tokens before the first visual one.
        copies: Copies of the shared prompt's keys and values that a step reads; None for one per answer.
    """
    head = size.width * size.vocabulary
    weights = size.layers * layer_parameters(size) + head
    total = Work(products=2 * head * len(questions))
    for first in range(0, len(questions), rows):
        together = questions[first : first + rows]
        for step in range(max(question.generated for question in together) - 1):
            running = [question for question in together if question.generated - 1 > step]
            # Token-layers, including those of the new token.
            seen = (size.layers - behind) * sum(prompt + question.tokens + step + 1 for question in running)
            seen += behind * sum(text + question.behind + step + 1 for question in running)
            spared = 0 if copies is None else max(0, len(running) - copies)
            again = spared * ((size.layers - behind) * prompt + behind * text)
            total += Work(
                2 * weights * len(running),
                4 * size.width * seen,
                step_bytes=decoding_bytes(size) + (seen - again) * size.kv_bytes,
            )
    return total


@dataclass(frozen=True)
class Parts:
    """An arm's work by part of the pipeline; questions without a shared prefix are entirely part of `prefix`."""

    encode: Work
    compress: Work
    prefix: Work
    questions: Work
    decode: Work

    @property
    def flops(self) -> float:
        """Operations of all parts."""
        return sum(work.flops for work in (self.encode, self.compress, self.prefix, self.questions, self.decode))

    def seconds(self, rates: PartRates) -> dict[str, float]:
        """Return the least time of each part, by its name."""
        names = (field.name for field in fields(self))
        return {name: getattr(rates, name).seconds(getattr(self, name)) for name in names}


def one_by_one(size: ModelSize, num_frames: int, prompt: int, questions: Sequence[AskedQuestion]) -> Parts:
    """Return the work of arm A, which repeats everything for every question."""
    prefilled = Work()
    for question in questions:
        prefilled += prefill(size, 0, prompt + question.tokens, size.layers)
    encoded = encoding(size, num_frames, scores=False).times(len(questions))
    return Parts(encoded, Work(), prefilled, Work(), decoding(size, prompt, questions, rows=1))


def shared(
    size: ModelSize,
    num_frames: int,
    prompt: int,
    questions: Sequence[AskedQuestion],
    *,
    rows: int,
    question_rows: int,
    compressed: bool = False,
    cached: bool = False,
    split: int | None = None,
    text: int = 0,
    copies: int | None = None,
) -> Parts:
    """Return the work of arms B, C and D, which encode and prefill once for all questions.

    Args:
        size: Of the model.
        num_frames: Encoded.
        prompt: Tokens of the shared prefix.
        questions: Their lengths.
        rows: Answers that are decoded together, and questions that are prefilled together.
        question_rows: Tokens of these that go through the weights at a time.
        compressed: Whether tokens are scored and compressed.
        cached: Whether that was done before.
        split: Layers before the inner pruning; None for none.
        text: With inner pruning the prefix's tokens before the first visual one.
        copies: As in `decoding`.
    """
    before = size.layers if split is None else split
    behind = size.layers - before
    nothing = own = Work()
    for first in range(0, len(questions), rows):
        together = questions[first : first + rows]
        own += prefill_together(size, prompt, [one.tokens for one in together], before, rows=question_rows)
        own += prefill_together(size, text, [one.behind for one in together], behind, rows=question_rows)
    return Parts(
        nothing if cached else encoding(size, num_frames, scores=compressed),
        compression(size, num_frames) if compressed and not cached else nothing,
        prefill(size, 0, prompt, before) + prefill(size, 0, text, behind),
        own,
        decoding(size, prompt, questions, rows=rows, behind=behind, text=text, copies=copies),
    )
