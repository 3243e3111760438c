"""`flashvid bench answers`: the cost of an answer by the number of questions per video, for our arms and their rivals.

One process, one thread, CPU time. The arms run in turns and the least of several turns counts; turns go on until two
arms that run twice under two names (the A/A controls, one taking seconds and one tenths of a second) agree within 5 %.
The bare kernels, from which limits are computed, run in the same turns.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from flashvid.engine.constants import CPU_DECODE_ROWS, QUESTION_ROWS
from jobs.bench.cost import cpu_seconds, single_thread
from jobs.bench.turns import ALL, Patience, take_turns
from jobs.lab.answers_arms import QUESTIONS, Asked, Bench, Counts, pruning
from jobs.lab.answers_model import BENCH, ModelSize
from jobs.lab.answers_rates import language_kernels, vision_kernels
from jobs.lab.answers_work import AskedQuestion, PartRates, Parts, one_by_one, shared

ARMS = ("A", "B", "C", "C inner", "D")
# The arm whose control an arm uses: D takes a tenth of the time of the others, and has its own.
_CONTROL_OF = {"A": "B", "B": "B", "C": "B", "C inner": "B", "D": "D"}
# D takes tenths of a second: five runs of it are as long as one run of the others.
_RUNS = {"D": 5}

_PATIENCE, _BRIEF_PATIENCE = Patience(least=5, most=20, seconds=420), Patience(least=3, most=20, seconds=60)
_QUICK_PATIENCE = Patience(least=2, most=3, seconds=20)


@dataclass(frozen=True)
class Scope:
    """How much is measured.

    Attributes:
        num_frames: Of the clip.
        questions: How many are asked, by row.
        loop_turns: That arm A takes part in, by row: with 16 questions one of them takes more than a minute.
        patience: How long each row goes on for its controls.
        kernel_seconds: CPU time of one measurement of a bare kernel. On a busy machine a shorter measurement would find
            a quiet moment; an arm takes seconds and never finds one.
    """

    num_frames: int = 32
    questions: tuple[int, ...] = (1, 4, 16)
    loop_turns: tuple[int, ...] = (5, 3, 2)
    patience: Patience = _PATIENCE
    kernel_seconds: float = 0.1


# For `bench all`, which takes twenty minutes in total; and only to see that it works.
BRIEF = Scope(loop_turns=(3, 2, 1), patience=_BRIEF_PATIENCE)
QUICK = Scope(num_frames=8, questions=(1, 4), loop_turns=(2, 1), patience=_QUICK_PATIENCE, kernel_seconds=0.02)


@dataclass(frozen=True)
class ArmCost:
    """The cost of one arm for one number of questions.

    Attributes:
        arm: Of `ARMS`.
        questions: Asked about the clip.
        seconds: CPU time of all of them.
        shortest: That of the shortest run.
        steps: Of it, by step of the arm.
        limits: Least CPU time of its counted work, by part, at this machine's measured rates.
        rates: These.
        parts: Its counted work.
        counts: What it did.
        control: Relative difference of the A/A control of its time scale in these turns.
        turns: Its own.
        prompt: Tokens of the prefix that questions share.
        asked: Lengths of the questions.
    """

    arm: str
    questions: int
    seconds: float
    shortest: float
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
        """The least CPU time of all parts."""
        return sum(self.limits.values())


@dataclass(frozen=True)
class AnswerCosts:
    """The costs of all arms."""

    scope: Scope
    costs: tuple[ArmCost, ...]

    def of(self, arm: str, questions: int) -> ArmCost:
        """Return the cost of that arm and number of questions."""
        return next(cost for cost in self.costs if (cost.arm, cost.questions) == (arm, questions))


def measure_answers(scope: Scope, size: ModelSize = BENCH) -> AnswerCosts:
    """Measure every arm at every number of questions; the process uses one thread.

    Raises:
        ValueError: arms that keep all tokens give different answers.
    """
    with single_thread(), TemporaryDirectory(prefix="flashvid-bench-") as folder:
        bench = Bench(Path(folder), size, scope.num_frames)
        # Not timed: arm A's first run does work that later runs do not; the others run once more for each row.
        bench.naive(QUESTIONS[:1])
        rows = zip(scope.questions, scope.loop_turns, strict=True)
        costs = [cost for number, turns in rows for cost in _measure(bench, scope, number, turns)]
    return AnswerCosts(scope, tuple(costs))


def check_same_answers(asked: Mapping[str, Asked]) -> None:
    """Check that all arms give the same answers.

    Raises:
        ValueError: they do not.
    """
    (first, expected), *others = asked.items()
    for arm, found in others:
        if found.responses != expected.responses:
            raise ValueError(f"arm {arm} answers {found.responses}, arm {first} {expected.responses}")


def arm_actions(bench: Bench, questions: Sequence[str]) -> dict[str, Callable[[], Asked]]:
    """Return the function that runs each arm of `ARMS`, in that order."""
    return {
        "A": partial(bench.naive, questions),
        "B": partial(bench.rival, questions),
        "C": partial(bench.cold, questions),
        "C inner": partial(bench.cold, questions, inner_pruning=True),
        "D": partial(bench.warm, questions),
    }


def _measure(bench: Bench, scope: Scope, number: int, loop_turns: int) -> list[ArmCost]:
    questions = QUESTIONS[:number]
    actions = arm_actions(bench, questions)
    asked = {arm: action() for arm, action in actions.items() if arm != "A"}
    check_same_answers({arm: asked[arm] for arm in "CD"})

    def timed(arm: str) -> dict[str, float]:
        found: list[Asked] = []
        seconds = cpu_seconds(lambda: found.append(actions[arm]()))
        asked[arm] = found[0]
        return {ALL: seconds, **found[0].seconds}

    # Arm A's prompts and answers are those of arm B, which is checked after A has run.
    work = {arm: counted_work(bench, arm, asked["B" if arm == "A" else arm]) for arm in ARMS}
    vision = vision_kernels(bench.size, scope.kernel_seconds)
    language = {
        shape: language_kernels(bench.size, *shape, scope.kernel_seconds)
        for shape in {_shape(arm, *work[arm][:2]) for arm in ARMS}
    }
    decoding: list[float] = []

    def limits() -> None:
        for kernels in (vision, *language.values()):
            kernels.turn()
        decoding.append(cpu_seconds(bench.decode))

    turns = take_turns(
        {arm: partial(timed, arm) for arm in ARMS},
        twice=[*dict.fromkeys(_CONTROL_OF.values())],
        patience=scope.patience,
        fewer={"A": loop_turns},
        runs=_RUNS,
        beside=limits,
    )
    check_same_answers({"A": asked["A"], "B": asked["B"], "C at 1.0": bench.cold(questions, 1.0)})
    costs = []
    for arm in ARMS:
        prompt, lengths, parts = work[arm]
        rates = PartRates(**vision.rates(), **language[_shape(arm, prompt, lengths)].rates())
        counts = asked[arm].counts
        frames = min(decoding) * counts.frames_decoded / bench.num_frames
        steps = dict(turns.least[arm])
        costs.append(
            ArmCost(
                arm=arm,
                questions=number,
                seconds=steps.pop(ALL),
                shortest=turns.shortest[arm],
                steps=steps,
                limits={"frames": frames, **parts.seconds(rates)},
                rates=rates,
                parts=parts,
                counts=counts,
                control=turns.controls[_CONTROL_OF[arm]],
                turns=turns.number[arm],
                prompt=prompt,
                asked=lengths,
            )
        )
    return costs


def _shape(arm: str, prompt: int, lengths: Sequence[AskedQuestion]) -> tuple[int, int, int, int]:
    """Return the shape of an arm's kernels: prompt, question, answers decoded together, and copies of their keys."""
    number = len(lengths)
    answers = 1 if arm == "A" else min(number, CPU_DECODE_ROWS)
    return prompt, sum(one.tokens for one in lengths) // number, answers, 1 if arm == "B" else answers


def counted_work(bench: Bench, arm: str, asked: Asked) -> tuple[int, tuple[AskedQuestion, ...], Parts]:
    """Return the tokens of the shared prompt, the lengths of the questions, and their least work.

    Args:
        bench: The model and the clip.
        arm: One of `ARMS`.
        asked: Its answers; for arm A those of arm B, whose prompts and answers are the same.
    """
    answers, size = asked.answers, bench.size
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
    rows: int = CPU_DECODE_ROWS,
    question_rows: int = QUESTION_ROWS,
) -> Parts:
    """Return an arm's work in a model of any size; see `answers_work.shared`."""
    if arm == "A":
        return one_by_one(size, num_frames, prompt, questions)
    return shared(
        size,
        num_frames,
        prompt,
        questions,
        rows=rows,
        question_rows=question_rows,
        compressed=arm != "B",
        cached=arm == "D",
        split=split,
        text=text,
        # Our engine copies keys for each answer, but the rival's limit is the best that a prefix cache can do.
        copies=1 if arm == "B" else None,
    )
