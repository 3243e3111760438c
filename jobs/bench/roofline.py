"""A roofline of LLaVA-OneVision-7B on an H100, from counted operations and bytes, and what follows for a large job.

`python -m jobs.bench.roofline docs/performance.md` writes the tables into the document, between its markers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

from flashvid.models.decoder import GPU_DECODE_ROWS, GPU_QUESTION_ROWS
from jobs.bench.answers_model import LLAVA_7B, ModelSize
from jobs.bench.answers_work import (
    H100,
    AskedQuestion,
    PartRates,
    Parts,
    Rates,
    Work,
    compression,
    decoding,
    encoding,
    prefill,
    prefill_together,
    shared,
)
from pipeline import estimates
from pipeline.resources import Pool, Pools

_FRAMES, _RETENTION = 32, 0.1
# A question with the chat around it, and a short answer.
_QUESTION = AskedQuestion(tokens=30, generated=16)
_QUESTIONS = (1, 4, 16)

# The large job. Prices and sizes are assumptions, and stand in the table.
_VIDEOS, _ASKED, _GPUS = 1_000_000, 20, 64
_CPUS_PER_GPU, _GPU_HOUR, _VIDEO_BYTES = 24, 3.0, 112_500_000
# The probe reads a file's packets, in ranges of s3fs' block size; decode then fetches the file.
_READS, _RANGE_BYTES = 2, 50 << 20
# A frame of a video with keyframes 8 s apart means decoding half of these 8 s: 125 frames, of which one CPU decodes 683
# a second (docs/decoding.md).
_DECODE_RATE = 683 / 125
# Bytes that a cached token takes on storage, by `flashvid bench cache`.
_TOKEN_BYTES: Mapping[str, int] = {"bfloat16": 5597, "int8": 3253}


@dataclass(frozen=True)
class RooflinePoint:
    """One kind of work on the roofline.

    Attributes:
        name: What it is.
        flops: Operations.
        bytes: Moved.
        seconds: At the rates that good kernels reach.
    """

    name: str
    flops: float
    bytes: float
    seconds: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes


def point(name: str, work: Work, rates: Rates = H100) -> RooflinePoint:
    """Work on the roofline of a device."""
    return RooflinePoint(name, work.flops, work.moved + work.step_bytes, rates.seconds(work))


def points(size: ModelSize = LLAVA_7B) -> tuple[RooflinePoint, ...]:
    """Everything that happens to a clip, piece by piece."""
    visual = _FRAMES * size.frame_tokens
    kept = round(_RETENTION * visual)
    tokens = size.value_bytes * visual * size.width
    step = AskedQuestion(_QUESTION.tokens, 2)
    once = Work(products=2 * size.width * size.vocabulary)

    def steps(rows: int) -> Work:
        # Without the first token, which comes from the prefill.
        whole = decoding(size, kept, [step] * rows, rows=GPU_DECODE_ROWS)
        return Work(whole.products - rows * once.products, whole.attention, 0, 0, whole.step_bytes)

    def questions(number: int) -> Work:
        lengths = [_QUESTION.tokens] * number
        return prefill_together(size, kept, lengths, size.layers, rows=GPU_QUESTION_ROWS)

    # Compression reads its tokens, and their similarities are written and read.
    similarities = size.value_bytes * 4 * (2 * _FRAMES - 1) * size.frame_tokens**2
    return (
        point(f"encode {_FRAMES} frames, scores included", encoding(size, _FRAMES, scores=True)),
        point("compress", compression(size, _FRAMES) + Work(moved=2 * tokens + similarities)),
        point(f"prefill all {visual:,} tokens", prefill(size, 0, visual, size.layers)),
        point(f"prefill {kept:,} tokens, a tenth", prefill(size, 0, kept, size.layers)),
        point(f"prefill one question of {_QUESTION.tokens} tokens", questions(1)),
        point(f"prefill {GPU_DECODE_ROWS} of them", questions(GPU_DECODE_ROWS)),
        point("one decoding step, 1 answer", steps(1)),
        point(f"one decoding step, {GPU_DECODE_ROWS} answers", steps(GPU_DECODE_ROWS)),
    )


def parts_of(arm: str, questions: int, size: ModelSize = LLAVA_7B) -> Parts:
    """The work of a clip with so many questions: B (all tokens), C (ours, cold) or D (ours, from the cache)."""
    visual = _FRAMES * size.frame_tokens
    return shared(
        size,
        _FRAMES,
        visual if arm == "B" else round(_RETENTION * visual),
        [_QUESTION] * questions,
        rows=GPU_DECODE_ROWS,
        question_rows=GPU_QUESTION_ROWS,
        compressed=arm != "B",
        cached=arm == "D",
    )


def gpu_seconds(arm: str, questions: int) -> dict[str, float]:
    """Of an H100, by part."""
    return parts_of(arm, questions).seconds(PartRates.same(H100))


def roofline_table() -> str:
    """The pieces, and what bounds each."""
    ridge = H100.products / H100.bytes
    lines = ["| | GFLOP | GB | FLOP per byte | bound by | ms |", "|---" * 6 + "|"]
    lines += [
        f"| {p.name} | {p.flops / 1e9:,.1f} | {p.bytes / 1e9:.2f} | {p.intensity:,.0f} "
        f"| {'operations' if p.intensity > ridge else 'bytes'} | {p.seconds * 1e3:,.2f} |"
        for p in points()
    ]
    return "\n".join(lines)


def shares_table() -> str:
    """Where a clip's time on the GPU goes, by the number of questions, cold and warm."""
    names = [field.name for field in fields(Parts)]
    header = "| Q | arm | ms | " + " | ".join(names) + " | B is |"
    lines = [header, "|---" * (len(names) + 4) + "|"]
    for questions in _QUESTIONS:
        rival = sum(gpu_seconds("B", questions).values())
        for arm, name in (("B", "B, all tokens"), ("C", "C, cold"), ("D", "D, warm")):
            seconds = gpu_seconds(arm, questions)
            total = sum(seconds.values())
            cells = " | ".join(f"{seconds[part] / total:.0%}" if seconds[part] else "" for part in names)
            lines.append(f"| {questions} | {name} | {total * 1e3:,.0f} | {cells} | {rival / total:.1f}x |")
    return "\n".join(lines)


def large_job() -> tuple[estimates.Work, estimates.Rates, Pools]:
    """What `flashvid plan` would count and be given for the large job."""
    visual = _FRAMES * LLAVA_7B.frame_tokens
    kept = round(_RETENTION * visual)
    todo = estimates.Work(
        clips_known=_VIDEOS,
        frames=_VIDEOS * _FRAMES,
        visual_tokens=_VIDEOS * visual,
        kept_tokens=_VIDEOS * kept,
        answers=_VIDEOS * _ASKED,
        answers_retried=0,
        largest_clip=None,
        read_bytes=_VIDEOS * _READS * _VIDEO_BYTES,
        unsized_files=0,
        write_bytes=_VIDEOS * kept * _TOKEN_BYTES["bfloat16"],
    )
    seconds = gpu_seconds("C", _ASKED)
    encoded = seconds["encode"] + seconds["compress"]
    answered = seconds["prefix"] + seconds["questions"] + seconds["decode"]
    rates = estimates.Rates(_DECODE_RATE, _FRAMES / encoded, _ASKED / answered)
    encode = max(1, round(_GPUS * encoded / (encoded + answered)))
    pools = Pools(Pool(_CPUS_PER_GPU * _GPUS, 1, 0), Pool(encode, 0, 1), Pool(_GPUS - encode, 0, 1), 2 * encode + 2)
    return todo, rates, pools


def large_job_table() -> str:
    """Hours, bytes, requests and cost of the large job, through the estimates of `flashvid plan`."""
    todo, rates, pools = large_job()
    lasts = estimates.duration(todo, rates, pools, num_gpus=_GPUS, gpu_hour_price=_GPU_HOUR)
    assert lasts.hours is not None  # noqa: S101 - every rate is given
    assert lasts.cost is not None  # noqa: S101
    clips_per_second = _VIDEOS / lasts.hours / 3600
    rows = {
        "actors": f"{pools.decode.size:,} decode ({_CPUS_PER_GPU} CPUs a GPU), {pools.encode.size} encode, "
        f"{pools.answer.size} answer",
        "hours, stage by stage": ", ".join(f"{stage} {hours:.2f}" for stage, hours in lasts.stage_hours.items()),
        "hours": f"{lasts.hours:.2f}, {clips_per_second:,.0f} clips a second",
        "cost": f"${lasts.cost:,.0f} at ${_GPU_HOUR:g} a GPU hour",
        "read": f"{todo.read_bytes / 1e12:,.0f} TB of video ({_VIDEO_BYTES / 1e6:g} MB each, 1.5 Mbit/s; by the probe "
        f"before the run, and by decode, {_VIDEOS * _VIDEO_BYTES / lasts.hours / 3600 / 1e9:,.1f} GB/s)",
        "tokens written": ", ".join(
            f"{todo.kept_tokens * size / 1e12:.2f} TB in {kind}" for kind, size in _TOKEN_BYTES.items()
        ),
        "requests": f"{(1 + math.ceil(_VIDEO_BYTES / _RANGE_BYTES)) * _VIDEOS / 1e6:.0f} million GET of videos, "
        f"{2 * _VIDEOS / 1e6:.0f} million HEAD, "
        f"{_VIDEOS / 1e6:.0f} million PUT and {_VIDEOS / 1e6:.0f} million GET of tokens, "
        f"{todo.answers // 1000:,} PUT of answers",
        "asked again, warm": f"{_warm_hours():.2f} hours on {_GPUS} answer actors",
        "with all tokens, one prefill a video": f"{_rival_hours():.2f} hours of {_GPUS} GPUs",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _warm_hours() -> float:
    return _VIDEOS * sum(gpu_seconds("D", _ASKED).values()) / _GPUS / 3600


def _rival_hours() -> float:
    return _VIDEOS * sum(gpu_seconds("B", _ASKED).values()) / _GPUS / 3600


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
