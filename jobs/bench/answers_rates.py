"""What this machine does per second on the bare kernels of an answer, each in the shape in which the arm needs it.

A kernel's rate hangs on its shape: 16 rows through a weight take longer per row than 6,000, and one query over 700 keys
longer per product than 700 queries. So every part of an arm has rates of its own. Nor does an arm find in a processor's
cache what it used a layer ago: kernels go through as many layers' weights, and as many answers' keys, as it does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from flashvid.models.decoder import QUESTION_ROWS
from jobs.bench.answers_model import ModelSize
from jobs.bench.answers_work import PartRates, Rates, decoding_bytes
from jobs.bench.cost import cpu_seconds, runs_to_fill

# CPU time of one measurement. On a busy machine a shorter one would find a quiet moment; an arm takes seconds and never
# has one.
_RUN_SECONDS = 0.1


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
        """CPU time of one of as many runs as fill that time."""
        runs = runs_to_fill(run_seconds, self.action)
        return cpu_seconds(lambda: [self.action() for _ in range(runs)]) / runs


class BareKernels:
    """The kernels of one prompt length and one question length, in float32; the best of all turns counts."""

    def __init__(
        self, size: ModelSize, prompt: int, question: int, answers: int, run_seconds: float = _RUN_SECONDS
    ) -> None:
        """Make the tensors.

        Args:
            size: Of the model.
            prompt: Tokens of the prefix that questions share.
            question: Tokens behind it.
            answers: That are decoded together, after their questions were prefilled together.
            run_seconds: CPU time of one measurement.
        """
        self._run_seconds = run_seconds
        area, tower, width = size.patches**2, size.vision_width, size.width
        tower_weights = [*[(tower, tower)] * 4, (tower, size.vision_mlp), (size.vision_mlp, tower)]
        kv = size.kv_heads * width // size.heads
        weights = [(width, width), (width, kv), (width, kv), (width, width)]
        weights += [(width, size.mlp), (width, size.mlp), (size.mlp, width)]
        heads, layers = (size.heads, size.kv_heads), size.layers
        # As many rows as there are, and not what they are filled up to: that is none of the work.
        rows = min(question * answers, QUESTION_ROWS)
        tower_heads, last = (size.vision_heads,) * 2, prompt + question
        frames = torch.randn(8, size.frame_tokens, width)
        self._kernels = {
            "encode": (
                _products(area, tower_weights, size.vision_layers),
                _attention(tower_heads, tower, area, area, causal=False),
                _moved(area * size.vision_mlp),
                _activation(torch.randn(area, size.vision_mlp), lambda x: functional.gelu(x, approximate="tanh")),
            ),
            "compress": (_Kernel(2 * frames.numel() * size.frame_tokens, lambda: frames @ frames.transpose(1, 2)),),
            "prefix": (
                _products(prompt, weights, layers),
                _attention(heads, width, prompt, prompt, causal=True),
                _moved(prompt * size.mlp),
                _activation(torch.randn(prompt, size.mlp), functional.silu),
            ),
            "questions": (
                _products(rows, weights, layers),
                _attention(heads, width, question, last, causal=True),
                _moved(rows * size.mlp),
                _activation(torch.randn(rows, size.mlp), functional.silu),
            ),
            "decode": (
                _products(answers, weights, layers),
                _step_attention(heads, width, last, answers, layers),
                _moved(decoding_bytes(size) // 4),
            ),
        }
        self._seconds = {part: [math.inf] * len(kernels) for part, kernels in self._kernels.items()}

    def turn(self) -> None:
        """Run every kernel once more."""
        for part, kernels in self._kernels.items():
            for index, kernel in enumerate(kernels):
                self._seconds[part][index] = min(kernel.seconds(self._run_seconds), self._seconds[part][index])

    def rates(self) -> PartRates:
        """The best of every kernel; what a part does not have costs it nothing."""
        found = {}
        for part, kernels in self._kernels.items():
            best = [kernel.work / seconds for kernel, seconds in zip(kernels, self._seconds[part], strict=True)]
            found[part] = Rates(*best, *[math.inf] * (4 - len(best)))
        return PartRates(**found)


def _products(rows: int, shapes: list[tuple[int, int]], layers: int) -> _Kernel:
    """The matrix products of so many layers."""
    states = {before: torch.randn(rows, before) for before, _ in shapes}
    weights = [torch.randn(behind, before) for _ in range(layers) for before, behind in shapes]
    work = 2 * rows * sum(weight.numel() for weight in weights)
    return _Kernel(work, lambda: [functional.linear(states[weight.shape[1]], weight) for weight in weights])


def _attention(heads: tuple[int, int], width: int, queries: int, keys: int, *, causal: bool) -> _Kernel:
    """The last queries to all keys; causal, each to those up to itself.

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


def _step_attention(heads: tuple[int, int], width: int, keys: int, answers: int, layers: int) -> _Kernel:
    """One query of each answer to its own keys, in so many layers; heads with the same keys are taken together."""
    own, shared = heads
    query = torch.randn(answers, shared, own // shared, width // own)
    pairs = torch.randn(layers, 2, answers, shared, keys, width // own)
    return _Kernel(
        4 * width * keys * answers * layers,
        lambda: [functional.scaled_dot_product_attention(query, key, value) for key, value in pairs],
    )


def _moved(values: int) -> _Kernel:
    """So many values read and as many written."""
    source = torch.randn(values)
    target = torch.empty_like(source)
    return _Kernel(2 * source.nbytes, lambda: target.copy_(source))


def _activation(values: Tensor, function: Callable[[Tensor], Tensor]) -> _Kernel:
    return _Kernel(values.numel(), lambda: function(values))
