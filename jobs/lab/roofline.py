"""A roofline of LLaVA-OneVision-7B on an H100, from counted operations and bytes, and what follows for a large job.

`python -m jobs.lab.roofline docs/performance.md` writes the tables into the document, between its markers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from flashvid.engine.decoder import GPU_DECODE_ROWS, QUESTION_ROWS
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

_QUESTIONS = (1, 4, 16)


@dataclass(frozen=True)
class RooflinePoint:
    """One kind of work on the roofline.

    Attributes:
        name: What it is.
        flops: Operations.
        bytes: Moved.
        seconds: At the rates that good kernels reach.
        dispatched: Operations that Python dispatches for it.
        ridge: Operations per byte above which they are what bounds it.
    """

    name: str
    flops: float
    bytes: float
    seconds: float
    dispatched: float
    ridge: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes


def point(name: str, work: Work, dispatched: float, rates: Rates = H100) -> RooflinePoint:
    """Work on the roofline of a device."""
    ridge = rates.products / rates.bytes
    return RooflinePoint(name, work.flops, work.moved + work.step_bytes, rates.seconds(work), dispatched, ridge)


def points(size: ModelSize = LLAVA_7B) -> tuple[RooflinePoint, ...]:
    """Everything that happens to a clip, piece by piece."""
    visual = FRAMES * size.frame_tokens
    kept = round(RETENTION * visual)
    step = AskedQuestion(QUESTION.tokens, 2)
    once = Work(products=2 * size.width * size.vocabulary)

    def steps(rows: int) -> Work:
        # Without the first token, which comes from the prefill.
        whole = decoding(size, kept, [step] * rows, rows=GPU_DECODE_ROWS)
        return Work(whole.products - rows * once.products, whole.attention, 0, 0, whole.step_bytes)

    def questions(number: int) -> Work:
        lengths = [QUESTION.tokens] * number
        return prefill_together(size, kept, lengths, size.layers, rows=QUESTION_ROWS)

    n = operations()
    return (
        point(f"encode {FRAMES} frames, scores included", encoding(size, FRAMES, scores=True), n.encode),
        point("compress, in float32", compression(size, FRAMES), n.compress, H100_FLOAT32),
        point(f"prefill all {visual:,} tokens", prefill(size, 0, visual, size.layers), n.prefix),
        point(f"prefill {kept:,} tokens, a tenth", prefill(size, 0, kept, size.layers), n.prefix),
        point(f"prefill one question of {QUESTION.tokens} tokens", questions(1), prefilled(n, 1)),
        point(f"prefill {GPU_DECODE_ROWS} of them", questions(GPU_DECODE_ROWS), prefilled(n, GPU_DECODE_ROWS)),
        point("one decoding step, 1 answer", steps(1), n.step),
        point(f"one decoding step, {GPU_DECODE_ROWS} answers", steps(GPU_DECODE_ROWS), n.step),
    )


def roofline_table() -> str:
    """The pieces, what bounds each, and what Python takes to dispatch it on the host that this was written on."""
    lines = ["| | GFLOP | GB | FLOP per byte | bound by | ms | dispatched | ms of Python |", "|---" * 8 + "|"]
    lines += [
        f"| {p.name} | {p.flops / 1e9:,.1f} | {p.bytes / 1e9:.2f} | {p.intensity:,.0f} "
        f"| {'operations' if p.intensity > p.ridge else 'bytes'} | {p.seconds * 1e3:,.2f} "
        f"| {p.dispatched:,.0f} | {p.dispatched * DISPATCH_SECONDS * 1e3:.1f} |"
        for p in points()
    ]
    return "\n".join(lines)


def shares_table() -> str:
    """Where a clip's time on the GPU goes, by the number of questions, cold and warm; and with Python beside it."""
    names = [field.name for field in fields(Parts)]
    header = f"| Q | arm | ms | {' | '.join(names)} | B is | with Python, ms | of it decode | B is |"
    lines = [header, "|---" * (len(names) + 7) + "|"]
    for questions in _QUESTIONS:
        rivals = [sum(seconds("B", questions).values()) for seconds in (gpu_seconds, dispatched_seconds)]
        for arm, name in (("B", "B, all tokens"), ("C", "C, cold"), ("D", "D, warm")):
            seconds, python = gpu_seconds(arm, questions), dispatched_seconds(arm, questions)
            total, slower = sum(seconds.values()), sum(python.values())
            cells = " | ".join(f"{seconds[part] / total:.0%}" if seconds[part] else "" for part in names)
            lines.append(
                f"| {questions} | {name} | {total * 1e3:,.0f} | {cells} | {rivals[0] / total:.1f}x "
                f"| {slower * 1e3:,.0f} | {python['decode'] / slower:.0%} | {rivals[1] / slower:.1f}x |"
            )
    return "\n".join(lines)


TABLES: Mapping[str, Callable[[], str]] = {
    "roofline": roofline_table,
    "shares": shares_table,
    "large job": large_job_table,
}


def with_tables(text: str) -> str:
    """A document with its tables brought up to date: each stands between `<!-- name -->` and `<!-- end -->`.

    Raises:
        ValueError: a table has no place.
    """
    for name, table in TABLES.items():
        before, marker, behind = text.partition(f"<!-- {name} -->\n")
        _, end, rest = behind.partition("<!-- end -->")
        if not marker or not end:
            raise ValueError(f"the document has no place for {name!r}")
        text = f"{before}{marker}{table()}\n{end}{rest}"
    return text


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")
