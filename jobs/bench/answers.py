"""`flashvid bench answers`: what an answer costs, by the number of questions per video, beside the loop and the rival.

One process, one thread, CPU time. The arms run in turns and the least of several turns counts; turns go on until an arm
that runs twice under two names (the A/A control) agrees with itself within 5 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch.nn import functional

from flashvid.models.decoder import DECODE_ROWS
from jobs.bench.answers_arms import QUESTIONS, Asked, Bench, Counts, pruning
from jobs.bench.answers_model import BENCH, ModelSize
from jobs.bench.answers_work import AskedQuestion, Parts, Rates, one_by_one, shared
from jobs.bench.cost import cpu_seconds

CONTROL = 0.05
ARMS = ("A", "B", "C", "C inner", "D")
_CONTROL_ARM = "B"
_SMALLEST_TURNS = 3


@dataclass(frozen=True)
class Scope:
    """How much is measured.

    Attributes:
        num_frames: Of the clip.
        questions: How many are asked, by row.
        most_turns: Until the control agrees.
        naive_turns: Of arm A, whose time nobody argues about and which takes most of it.
    """

    num_frames: int = 32
    questions: tuple[int, ...] = (1, 4, 16)
    most_turns: int = 20
    naive_turns: int = 3


QUICK = Scope(num_frames=8, questions=(1, 4), most_turns=5, naive_turns=1)


@dataclass(frozen=True)
class ArmCost:
    """One arm asked one number of questions.

    Attributes:
        arm: Of `ARMS`.
        questions: Asked about the clip.
        seconds: CPU time of all of them.
        limit: Least CPU time of its counted work, at this machine's measured rates.
        parts: Its counted work.
        counts: What it did.
        control: By how much the control differed from itself in these turns.
        turns: Measured.
        prompt: Tokens of the prefix that questions share.
        asked: Lengths of the questions.
    """

    arm: str
    questions: int
    seconds: float
    limit: float
    parts: Parts
    counts: Counts
    control: float
    turns: int
    prompt: int
    asked: tuple[AskedQuestion, ...]


@dataclass(frozen=True)
class AnswerCosts:
    """All arms, and the rates behind their limits."""

    scope: Scope
    rates: Rates
    decode_seconds: float
    costs: tuple[ArmCost, ...]

    def of(self, arm: str, questions: int) -> ArmCost:
        """The one of that arm and number of questions."""
        return next(cost for cost in self.costs if (cost.arm, cost.questions) == (arm, questions))


def measure_answers(scope: Scope, size: ModelSize = BENCH) -> AnswerCosts:
    """Measure every arm at every number of questions; the process computes with one thread meanwhile.

    Raises:
        ValueError: arms that keep all tokens give different answers.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory(prefix="flashvid-bench-") as folder:
            bench = Bench(Path(folder), size, scope.num_frames)
            rates = measured_rates(size, scope.num_frames)
            decode_seconds = min(cpu_seconds(bench.decode) for _ in range(_SMALLEST_TURNS))
            costs = [c for number in scope.questions for c in _measure(bench, scope, number, rates, decode_seconds)]
    finally:
        torch.set_num_threads(threads)
    return AnswerCosts(scope, rates, decode_seconds, tuple(costs))


def check_same_answers(bench: Bench, questions: Sequence[str]) -> dict[str, Asked]:
    """Ask the arms that keep every token, A, B and C at retention 1.

    Raises:
        ValueError: their answers differ.
    """
    asked = {"A": bench.naive(questions), "B": bench.rival(questions), "C at 1.0": bench.cold(questions, 1.0)}
    for arm, found in asked.items():
        if found.responses != asked["A"].responses:
            raise ValueError(f"arm {arm} answers {found.responses}, arm A {asked['A'].responses}")
    return asked


def measured_rates(size: ModelSize, num_frames: int) -> Rates:
    """Bare kernels of torch at the decoder's own shapes, in float32: the best of several."""
    tokens, head_dim = num_frames * size.frame_tokens, size.width // size.heads
    states, weight = torch.randn(tokens, size.width), torch.randn(size.mlp, size.width)
    heads = torch.randn(1, size.heads, tokens, head_dim)
    source = torch.randn(32 << 20)
    target = torch.empty_like(source)

    def rate(work: float, action: Callable[[], object]) -> float:
        return work / min(cpu_seconds(action) for _ in range(7))

    return Rates(
        rate(2 * tokens * size.width * size.mlp, lambda: functional.linear(states, weight)),
        rate(
            4 * size.width * tokens * (tokens + 1) / 2,
            lambda: functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True),
        ),
        rate(2 * source.nbytes, lambda: target.copy_(source)),
    )


def _measure(bench: Bench, scope: Scope, number: int, rates: Rates, decode_seconds: float) -> list[ArmCost]:
    questions = QUESTIONS[:number]
    # Also the first run of everything, which no turn counts.
    full = check_same_answers(bench, questions)
    asked = {"A": full["A"], "B": full["B"], "C": bench.cold(questions)}
    asked |= {"C inner": bench.cold(questions, inner_pruning=True), "D": bench.warm(questions)}
    if asked["D"].responses != asked["C"].responses:
        raise ValueError(f"arm D answers {asked['D'].responses}, arm C {asked['C'].responses}")
    actions: dict[str, Callable[[], object]] = {
        "A": partial(bench.naive, questions),
        "B": partial(bench.rival, questions),
        "C": partial(bench.cold, questions),
        "C inner": partial(bench.cold, questions, inner_pruning=True),
        "D": partial(bench.warm, questions),
        "control": partial(bench.rival, questions),
    }
    least, control, turns = dict.fromkeys(actions, math.inf), math.inf, 0
    while turns < _SMALLEST_TURNS or (control > CONTROL and turns < scope.most_turns):
        for name, action in actions.items():
            if name != "A" or turns < scope.naive_turns:
                least[name] = min(least[name], cpu_seconds(action))
        control, turns = abs(least["control"] / least[_CONTROL_ARM] - 1), turns + 1
    costs = []
    for arm in ARMS:
        counts = asked[arm].counts
        prompt, lengths, parts = counted_work(bench, arm, asked[arm], full["B"])
        limit = sum(parts.seconds(rates)) + decode_seconds * counts.frames_decoded / bench.num_frames
        costs.append(ArmCost(arm, number, least[arm], limit, parts, counts, control, turns, prompt, lengths))
    return costs


def counted_work(bench: Bench, arm: str, asked: Asked, rival: Asked) -> tuple[int, tuple[AskedQuestion, ...], Parts]:
    """Tokens of the shared prompt, lengths of the questions, and what they cost at least.

    Args:
        bench: What was asked.
        arm: Of `ARMS`.
        asked: What came of it.
        rival: Arm B's, whose prompts and answers are those of arm A.
    """
    answers, size = asked.answers or rival.answers, bench.size
    split = pruning().pruning_layer if arm == "C inner" else size.layers
    behind = size.layers - split
    prompt = answers[0].num_shared_tokens
    text = (answers[0].token_layers.shared - prompt * split) // behind if behind else 0
    lengths = []
    for answer in answers:
        own = answer.num_prompt_tokens - prompt
        run = (answer.token_layers.prompt - own * split) // behind if behind else 0
        lengths.append(AskedQuestion(own, answer.num_generated_tokens, run))
    return prompt, tuple(lengths), work_of(arm, size, bench.num_frames, prompt, lengths, split=split, text=text)


def work_of(
    arm: str,
    size: ModelSize,
    num_frames: int,
    prompt: int,
    questions: Sequence[AskedQuestion],
    *,
    split: int,
    text: int = 0,
) -> Parts:
    """An arm's work in a model of any size; see `answers_work.shared`."""
    if arm == "A":
        return one_by_one(size, num_frames, prompt, questions)
    return shared(
        size,
        num_frames,
        prompt,
        questions,
        rows=DECODE_ROWS,
        compressed=arm != "B",
        cached=arm == "D",
        split=split,
        text=text,
    )
