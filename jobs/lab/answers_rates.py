"""Rates of this machine on the bare kernels of an answer, each in the shape that the arm needs.

A kernel's rate depends on its shape: 16 rows through a weight take longer per row than 6,000, and one query over 700
keys takes longer per product than 700 queries. So every part of an arm has its own rates. An arm does not find in the
processor's cache what it used a layer ago: kernels use as many layers' weights, and as many answers' keys, as the
arm does.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from flashvid.engine.constants import QUESTION_ROWS
from jobs.bench.cost import cpu_seconds, runs_to_fill
from jobs.lab.answers_model import ModelSize
from jobs.lab.answers_work import Rates, decoding_bytes


@dataclass(frozen=True)
class _Kernel:
    """One kernel.

    Attributes:
        work: Operations, bytes or values.
        action: Runs it once.
    """

    work: float
    action: Callable[[], object]

    def seconds(self, run_seconds: float) -> float:
        """Return the CPU time of one run, the mean of as many runs as fill that time."""
        runs = runs_to_fill(run_seconds, self.action)
        return cpu_seconds(lambda: [self.action() for _ in range(runs)]) / runs


class BareKernels:
    """Kernels of some parts of the pipeline, in float32; the best of all turns counts."""

    def __init__(self, parts: Mapping[str, Mapping[str, _Kernel]], run_seconds: float) -> None:
        """Take kernels.

        Args:
            parts: Kernels by the part of `PartRates` and the field of `Rates` that they are of.
            run_seconds: CPU time of one measurement.
        """
        self._parts, self._run_seconds = parts, run_seconds
        self._seconds = {part: dict.fromkeys(kernels, math.inf) for part, kernels in parts.items()}

    def turn(self) -> None:
        """Run every kernel once more."""
        for part, kernels in self._parts.items():
            for name, kernel in kernels.items():
                self._seconds[part][name] = min(kernel.seconds(self._run_seconds), self._seconds[part][name])

    def rates(self) -> dict[str, Rates]:
        """Return rates by part, from the best of every kernel; a kernel that a part lacks has an infinite rate."""
        nothing = dict.fromkeys((field.name for field in fields(Rates)), math.inf)
        return {
            part: Rates(**nothing | {name: kernel.work / self._seconds[part][name] for name, kernel in kernels.items()})
            for part, kernels in self._parts.items()
        }


def vision_kernels(size: ModelSize, run_seconds: float) -> BareKernels:
    """Return the kernels of encode and compress.

    Args:
        size: Of the model.
        run_seconds: CPU time of one measurement.
    """
    area, tower = size.patches**2, size.vision_width
    weights = [*[(tower, tower)] * 4, (tower, size.vision_mlp), (size.vision_mlp, tower)]
    frames = torch.randn(8, size.frame_tokens, size.width)
    encode = {
        "products": _products(area, weights, size.vision_layers),
        "attention": _attention((size.vision_heads,) * 2, tower, area, area, causal=False),
        "bytes": _moved(area * size.vision_mlp),
        "activations": _each(torch.randn(area, size.vision_mlp), lambda x: functional.gelu(x, approximate="tanh")),
        "probabilities": _each(torch.randn(size.vision_heads, area, area), lambda x: x.softmax(dim=-1)),
    }
    compress = _Kernel(2 * frames.numel() * size.frame_tokens, lambda: frames @ frames.transpose(1, 2))
    return BareKernels({"encode": encode, "compress": {"products": compress}}, run_seconds)


def language_kernels(
    size: ModelSize, prompt: int, question: int, answers: int, copies: int, run_seconds: float
) -> BareKernels:
    """Return the kernels of prefix, questions and decode.

    Args:
        size: Of the model.
        prompt: Tokens of the prefix that questions share.
        question: Tokens after it.
        answers: Answers decoded together, after their questions were prefilled together.
        copies: Of the keys and values that they read: one of each answer, or one for all.
        run_seconds: CPU time of one measurement.
    """
    width, heads, layers = size.width, (size.heads, size.kv_heads), size.layers
    kv = size.kv_heads * width // size.heads
    weights = [(width, width), (width, kv), (width, kv), (width, width)]
    weights += [(width, size.mlp), (width, size.mlp), (size.mlp, width)]
    # The rows without padding: padding is not part of the work.
    rows, last = min(question * answers, QUESTION_ROWS), prompt + question

    def prefill(tokens: int, queries: int, keys: int) -> dict[str, _Kernel]:
        return {
            "products": _products(tokens, weights, layers),
            "attention": _attention(heads, width, queries, keys, causal=True),
            "bytes": _moved(tokens * size.mlp),
            "activations": _each(torch.randn(tokens, size.mlp), functional.silu),
        }

    decode = {
        "products": _products(answers, weights, layers),
        "attention": _step_attention(heads, width, last, answers, layers, copies),
        "bytes": _moved(decoding_bytes(size) // 4),
    }
    parts = {"prefix": prefill(prompt, prompt, prompt), "questions": prefill(rows, question, last), "decode": decode}
    return BareKernels(parts, run_seconds)


def _products(rows: int, shapes: list[tuple[int, int]], layers: int) -> _Kernel:
    """Return the matrix products of some layers."""
    states = {before: torch.randn(rows, before) for before, _ in shapes}
    weights = [torch.randn(behind, before) for _ in range(layers) for before, behind in shapes]
    work = 2 * rows * sum(weight.numel() for weight in weights)
    return _Kernel(work, lambda: [functional.linear(states[weight.shape[1]], weight) for weight in weights])


def _attention(heads: tuple[int, int], width: int, queries: int, keys: int, *, causal: bool) -> _Kernel:
    """Return attention of the last queries to all keys; causal, each to the keys up to its own.

    Args:
        heads: Of queries, and of keys and values.
        width: Of all query heads together.
        queries: How many.
        keys: How many.
        causal: Whether it is.
    """
    own, shared = heads
    query = torch.randn(1, own, queries, width // own)
    key, value = torch.randn(2, 1, shared, keys, width // own)
    seen = queries * (keys - queries) + queries * (queries + 1) / 2 if causal else queries * keys
    alone = causal and queries == keys
    mask: Tensor | None = None
    if causal and 1 < queries < keys:
        hidden = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
        mask = torch.zeros(queries, keys).masked_fill_(hidden, -math.inf)
    return _Kernel(
        4 * width * seen,
        lambda: functional.scaled_dot_product_attention(
            query, key, value, mask, is_causal=alone, enable_gqa=own > shared
        ),
    )


def _step_attention(heads: tuple[int, int], width: int, keys: int, answers: int, layers: int, copies: int) -> _Kernel:
    """Return attention of one query of each answer, to some copies of the keys in each layer.

    Heads with the same keys are computed together, and so are answers.
    """
    own, shared = heads
    query = torch.randn(copies, shared, answers // copies * own // shared, width // own)
    pairs = torch.randn(layers, 2, copies, shared, keys, width // own)
    return _Kernel(
        4 * width * keys * answers * layers,
        lambda: [functional.scaled_dot_product_attention(query, key, value) for key, value in pairs],
    )


def _moved(values: int) -> _Kernel:
    """Return a copy of some values: a read and a write of each."""
    source = torch.randn(values)
    target = torch.empty_like(source)
    return _Kernel(2 * source.nbytes, lambda: target.copy_(source))


def _each(values: Tensor, function: Callable[[Tensor], Tensor]) -> _Kernel:
    """Return a function applied to each value."""
    return _Kernel(values.numel(), lambda: function(values))
