"""A roofline of LLaVA-OneVision-7B on an H100, computed from counted operations and bytes, and an estimated large job.

`python -m jobs.lab.roofline docs/performance.md` writes the tables between the page's markers.
"""

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from flashvid.engine.constants import GPU_DECODE_ROWS, QUESTION_ROWS
from jobs.lab.answers_model import LLAVA_7B, ModelSize
from jobs.lab.answers_work import (
    H100,
    H100_FLOAT32,
    AskedQuestion,
    Parts,
    Rates,
    Work,
    compression,
    decoding,
    encoding,
    prefill,
    prefill_together,
)
from jobs.lab.gpu_parts import (
    DISPATCH_SECONDS,
    FRAMES,
    QUESTION,
    RETENTION,
    dispatched_seconds,
    gpu_seconds,
    operations,
    prefilled,
)
from jobs.lab.large_job import large_job_table

_QUESTIONS = (1, 16)
# Generated tokens of a longer answer than `QUESTION`'s.
_LONG_ANSWER = 64


@dataclass(frozen=True)
class RooflinePoint:
    """One kind of work on the roofline.

    Attributes:
        name: Label in the table.
        flops: Floating-point operations.
        bytes: Bytes moved.
        seconds: Time at the rates that good kernels reach.
        dispatched: PyTorch operations that Python dispatches for it.
        ridge: FLOP per byte above which the work is bound by compute.
    """

    name: str
    flops: float
    bytes: float
    seconds: float
    dispatched: float
    ridge: float

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flops / self.bytes


def point(name: str, work: Work, dispatched: float, rates: Rates = H100) -> RooflinePoint:
    """Place work on the roofline of a device."""
    ridge = rates.products / rates.bytes
    return RooflinePoint(name, work.flops, work.moved + work.step_bytes, rates.seconds(work), dispatched, ridge)


def points(size: ModelSize = LLAVA_7B) -> tuple[RooflinePoint, ...]:
    """Return the work of a clip, step by step."""
    visual = FRAMES * size.frame_tokens
    kept = round(RETENTION * visual)
    step = AskedQuestion(QUESTION.tokens, 2)
    once = Work(products=2 * size.width * size.vocabulary)

    def steps(rows: int) -> Work:
        # The prefill yields the first token, so that two generated tokens take one step; its head is left out.
        whole = decoding(size, kept, [step] * rows, rows=GPU_DECODE_ROWS)
        return Work(whole.products - rows * once.products, whole.attention, 0, 0, whole.step_bytes)

    def questions(number: int) -> Work:
        lengths = [QUESTION.tokens] * number
        return prefill_together(size, kept, lengths, size.layers, rows=QUESTION_ROWS)

    n = operations()
    return (
        point(f"encode {FRAMES} frames, with scores", encoding(size, FRAMES, scores=True), n.encode),
        point("compress, in float32", compression(size, FRAMES), n.compress, H100_FLOAT32),
        point(f"prefill all {visual:,} tokens", prefill(size, 0, visual, size.layers), n.prefix),
        point(f"prefill {kept:,} tokens (10 %)", prefill(size, 0, kept, size.layers), n.prefix),
        point(f"prefill one question of {QUESTION.tokens} tokens", questions(1), prefilled(n, 1)),
        point(f"prefill {GPU_DECODE_ROWS} such questions", questions(GPU_DECODE_ROWS), prefilled(n, GPU_DECODE_ROWS)),
        point("decode step of 1 answer", steps(1), n.step),
        point(f"decode step of {GPU_DECODE_ROWS} answers", steps(GPU_DECODE_ROWS), n.step),
    )


def roofline_table() -> str:
    """Return the table of the steps: their work, what bounds them, and the time to dispatch them."""
    lines = [
        "| step | GFLOP | GB | FLOP per byte | bound by | kernels, ms | dispatched operations | dispatch, ms |",
        "|---" * 8 + "|",
    ]
    lines += [
        f"| {p.name} | {p.flops / 1e9:,.1f} | {p.bytes / 1e9:.2f} | {p.intensity:,.0f} "
        f"| {'compute' if p.intensity > p.ridge else 'memory'} | {p.seconds * 1e3:,.2f} "
        f"| {p.dispatched:,.0f} | {p.dispatched * DISPATCH_SECONDS * 1e3:.1f} |"
        for p in points()
    ]
    return "\n".join(lines)


def decode_seconds(arm: str, questions: int, generated: int) -> tuple[float, float]:
    """Return the decode time of a clip's answers: of the kernels alone, and with dispatch.

    Args:
        arm: "B", "C" or "D", as in `gpu_parts.parts_of`.
        questions: Number of questions about the clip.
        generated: Tokens of each answer.
    """
    visual = FRAMES * LLAVA_7B.frame_tokens
    work = decoding(
        LLAVA_7B,
        visual if arm == "B" else round(RETENTION * visual),
        [replace(QUESTION, generated=generated)] * questions,
        rows=GPU_DECODE_ROWS,
        copies=1 if arm == "B" else None,
    )
    kernels = H100.seconds(work)
    steps = math.ceil(questions / GPU_DECODE_ROWS) * (generated - 1)
    return kernels, max(kernels, steps * operations().step * DISPATCH_SECONDS)


def clip_seconds(arm: str, questions: int, generated: int) -> tuple[float, float]:
    """Return the time of a clip with all its parts: of the kernels alone, and with dispatch. Arguments as above."""
    kernels, dispatched = (
        sum(seconds for part, seconds in parts(arm, questions).items() if part != "decode")
        for parts in (gpu_seconds, dispatched_seconds)
    )
    decode, decode_dispatched = decode_seconds(arm, questions, generated)
    return kernels + decode, dispatched + decode_dispatched


def shares_table() -> str:
    """Return the table of a clip's time by number of questions and length of answers, with each part's share."""
    names = [field.name for field in fields(Parts)]
    lengths = (QUESTION.generated, _LONG_ANSWER)
    titles = [f"{length} tokens{also}, ms" for length in lengths for also in (": kernels", ": with dispatch")]
    header = f"| Q | arm | {titles[0]} | {' | '.join(names)} | {' | '.join(titles[1:])} |"
    lines = [header, "|---" * (len(names) + 6) + "|"]
    for questions in _QUESTIONS:
        rival = [seconds for length in lengths for seconds in clip_seconds("B", questions, length)]
        for arm, name in (("B", "B, all tokens"), ("C", "C, cold"), ("D", "D, warm")):
            times = [seconds for length in lengths for seconds in clip_seconds(arm, questions, length)]
            first, *others = (
                f"{ours * 1e3:,.0f}" if arm == "B" else f"{ours * 1e3:,.0f} ({theirs / ours:.1f}x)"
                for ours, theirs in zip(times, rival, strict=True)
            )
            parts = gpu_seconds(arm, questions)
            shares = " | ".join(f"{parts[part] / times[0]:.0%}" if parts[part] else "" for part in names)
            lines.append(f"| {questions} | {name} | {first} | {shares} | {' | '.join(others)} |")
    return "\n".join(lines)


TABLES: Mapping[str, Callable[[], str]] = {
    "roofline": roofline_table,
    "shares": shares_table,
    "large job": large_job_table,
}


def with_tables(text: str) -> str:
    """Return a page with its tables brought up to date; each stands between `<!-- name -->` and `<!-- end -->`.

    Raises:
        ValueError: a table's markers are missing.
    """
    for name, table in TABLES.items():
        before, marker, after = text.partition(f"<!-- {name} -->\n")
        _, end, rest = after.partition("<!-- end -->")
        if not marker or not end:
            raise ValueError(
                f"the page has no place for the table {name!r}: add the lines <!-- {name} --> and <!-- end -->"
            )
        text = f"{before}{marker}{table()}\n{end}{rest}"
    return text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, help="the page whose tables to bring up to date")
    document = parser.parse_args().page
    document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")
