"""A clip on an H100, part by part: the least time of its counted work in LLaVA-OneVision-7B, and Python's share."""

import numpy as np

from flashvid.engine.constants import GPU_DECODE_ROWS, QUESTION_ROWS
from jobs.lab.answers_model import LLAVA_7B, ModelSize
from jobs.lab.answers_work import H100_PARTS, AskedQuestion, Parts, shared
from jobs.lab.dispatch import Operations, count_operations

FRAMES, RETENTION = 32, 0.1
# A question with the chat around it, and a short answer.
QUESTION = AskedQuestion(tokens=30, generated=16)
# CPU time of an operation on the build machine, by `python -m jobs.lab.dispatch`.
DISPATCH_SECONDS = 5.3e-6
# Questions prefilled together; between these numbers, operations are interpolated.
_TOGETHER = (1, 4, 16, GPU_DECODE_ROWS)


def parts_of(arm: str, questions: int, size: ModelSize = LLAVA_7B, *, clips: int = 1) -> Parts:
    """Return the work of a clip with some questions: B (all tokens), C (ours, cold) or D (ours, from the cache).

    Args:
        arm: Which.
        questions: Of the clip.
        size: Of the model.
        clips: Clips of B's answers, each with one copy of its keys; other arms have one copy per answer.
    """
    visual = FRAMES * size.frame_tokens
    return shared(
        size,
        FRAMES,
        visual if arm == "B" else round(RETENTION * visual),
        [QUESTION] * questions,
        rows=GPU_DECODE_ROWS,
        question_rows=QUESTION_ROWS,
        compressed=arm != "B",
        cached=arm == "D",
        copies=clips if arm == "B" else None,
    )


def gpu_seconds(arm: str, questions: int, clips: int = 1) -> dict[str, float]:
    """Return the seconds of an H100 that a clip takes, by part.

    Args:
        arm: As in `parts_of`.
        questions: Of each clip.
        clips: Clips whose answers are decoded together, as in an answer actor.
    """
    alone = parts_of(arm, questions).seconds(H100_PARTS)
    together = parts_of(arm, clips * questions, clips=clips).seconds(H100_PARTS)
    return {**alone, "decode": together["decode"] / clips}


def operations() -> Operations:
    """Return the operations of every part, counted."""
    return count_operations(FRAMES, QUESTION.tokens, _TOGETHER)


def dispatched_seconds(arm: str, questions: int, clips: int = 1) -> dict[str, float]:
    """Return the time of each part on an H100: the longer of its kernels and of Python's dispatch of its operations.

    An operation goes to the GPU while earlier ones run there, so the two do not add up; but a part waits for the one
    before it, and a step for its tokens. Arguments as in `gpu_seconds`.
    """
    counted, kernels = operations(), gpu_seconds(arm, questions, clips)
    batches = [min(GPU_DECODE_ROWS, questions - first) for first in range(0, questions, GPU_DECODE_ROWS)]
    rounds = -(-clips * questions // GPU_DECODE_ROWS) / clips
    number = {
        "encode": counted.encode,
        "compress": counted.compress,
        "prefix": counted.prefix,
        "questions": sum(prefilled(counted, batch) for batch in batches),
        "decode": rounds * (QUESTION.generated - 1) * counted.step,
    }
    return {part: max(least, number[part] * DISPATCH_SECONDS) if least else 0.0 for part, least in kernels.items()}


def prefilled(counted: Operations, together: int) -> float:
    """Return the operations of some questions that are prefilled together."""
    return float(np.interp(together, [*counted.questions], [*counted.questions.values()]))
