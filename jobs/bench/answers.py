"""`flashvid bench answers`: what an answer costs, by the number of questions per video, beside the loop and the rival.

One process, one thread, CPU time. The arms run in turns and the least of several turns counts; turns go on until an arm
that runs twice under two names (the A/A control) agrees with itself within 5 %. The bare kernels that limits are
made of run in the same turns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from flashvid.models.decoder import CPU_DECODE_ROWS, CPU_QUESTION_ROWS
from jobs.bench.answers_arms import LOOP, QUESTIONS, Asked, Bench, Counts, pruning
from jobs.bench.answers_model import BENCH, ModelSize
from jobs.bench.answers_rates import BareKernels
from jobs.bench.answers_work import AskedQuestion, PartRates, Parts, one_by_one, shared
from jobs.bench.cost import cpu_seconds

CONTROL = 0.05
ARMS = ("A", "B", "C", "C inner", "D")
_CONTROL_ARM, _CONTROL = "B", "control"
_ALL = "all"
_SMALLEST_TURNS = 3


@dataclass(frozen=True)
class Scope:
    """How much is measured.

    Attributes:
        num_frames: Of the clip.
        questions: How many are asked, by row.
        most_turns: Until the control agrees. Arm A, whose time nobody argues about and which takes most of it, has one.
    """

    num_frames: int = 32
    questions: tuple[int, ...] = (1, 4, 16)
    most_turns: int = 20


QUICK = Scope(num_frames=8, questions=(1, 4), most_turns=5)


@dataclass(frozen=True)
class ArmCost:
    """One arm asked one number of questions.

    Attributes:
        arm: Of `ARMS`.
        questions: Asked about the clip.
        seconds: CPU time of all of them.
        steps: Of it, by step of the arm.
        limits: Least CPU time of its counted work, by part, at this machine's measured rates.
        rates: These.
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
    steps: Mapping[str, float]
    limits: Mapping[str, float]
    rates: PartRates
    parts: Parts
    counts: Counts
    control: float
    turns: int
    prompt: int
    asked: tuple[AskedQuestion, ...]

    @property
    def limit(self) -> float:
        """Least CPU time of everything."""
        return sum(self.limits.values())


@dataclass(frozen=True)
class AnswerCosts:
    """All arms."""

    scope: Scope
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
            costs = [cost for number in scope.questions for cost in _measure(bench, scope, number)]
    finally:
        torch.set_num_threads(threads)
    return AnswerCosts(scope, tuple(costs))


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


def _measure(bench: Bench, scope: Scope, number: int) -> list[ArmCost]:
    questions = QUESTIONS[:number]
    # Also the first run of everything, which no turn counts, and the one run of arm A.
    full = check_same_answers(bench, questions)
    asked = {"A": full["A"], "B": full["B"], "C": bench.cold(questions)}
    asked |= {"C inner": bench.cold(questions, inner_pruning=True), "D": bench.warm(questions)}
    if asked["D"].responses != asked["C"].responses:
        raise ValueError(f"arm D answers {asked['D'].responses}, arm C {asked['C'].responses}")
    work = {arm: counted_work(bench, arm, asked[arm], full["B"]) for arm in ARMS}
    # Prompt, question, and how many answers are given together.
    shapes = {
        arm: (prompt, sum(one.tokens for one in lengths) // number, 1 if arm == "A" else min(number, CPU_DECODE_ROWS))
        for arm, (prompt, lengths, _) in work.items()
    }
    kernels = {shape: BareKernels(bench.size, *shape) for shape in shapes.values()}
    actions: dict[str, Callable[[], Asked]] = {
        "B": partial(bench.rival, questions),
        "C": partial(bench.cold, questions),
        "C inner": partial(bench.cold, questions, inner_pruning=True),
        "D": partial(bench.warm, questions),
        _CONTROL: partial(bench.rival, questions),
    }
    least: dict[str, dict[str, float]] = {"A": {_ALL: asked["A"].seconds[LOOP]}, **{name: {} for name in actions}}
    decoding, control, turns = math.inf, math.inf, 0
    while turns < _SMALLEST_TURNS or (control > CONTROL and turns < scope.most_turns):
        for name, action in actions.items():
            for step, seconds in _timed(action).items():
                least[name][step] = min(seconds, least[name].get(step, math.inf))
        for kernel in kernels.values():
            kernel.turn()
        decoding = min(decoding, cpu_seconds(bench.decode))
        control, turns = abs(least[_CONTROL][_ALL] / least[_CONTROL_ARM][_ALL] - 1), turns + 1
    costs = []
    for arm in ARMS:
        counts, (prompt, lengths, parts), rates = asked[arm].counts, work[arm], kernels[shapes[arm]].rates()
        limits = {"frames": decoding * counts.frames_decoded / bench.num_frames, **parts.seconds(rates)}
        steps = dict(least[arm])
        seconds = steps.pop(_ALL)
        costs.append(
            ArmCost(arm, number, seconds, steps, limits, rates, parts, counts, control, turns, prompt, lengths)
        )
    return costs


def _timed(action: Callable[[], Asked]) -> dict[str, float]:
    """CPU time of an arm's steps, and of it all."""
    found: list[Asked] = []
    seconds = cpu_seconds(lambda: found.append(action()))
    return {_ALL: seconds, **found[0].seconds}


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
    question_rows: int = CPU_QUESTION_ROWS,
) -> Parts:
    """An arm's work in a model of any size; see `answers_work.shared`."""
    if arm == "A":
        return one_by_one(size, num_frames, prompt, questions)
    return shared(
        size,
        num_frames,
        prompt,
        questions,
        rows=CPU_DECODE_ROWS,
        question_rows=question_rows,
        compressed=arm != "B",
        cached=arm == "D",
        split=split,
        text=text,
    )
