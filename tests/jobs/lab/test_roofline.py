"""`jobs.lab.roofline`: its arithmetic by hand, and that docs/performance.md shows its tables."""

from __future__ import annotations

from pathlib import Path

import pytest

from flashvid.engine.decoder import GPU_DECODE_ROWS
from flashvid.engine.kv_slots import grown_size
from flashvid.models.video_model import MAX_BATCH_TOKENS
from jobs.lab.answers_model import LLAVA_7B
from jobs.lab.answers_work import Rates, Work
from jobs.lab.dispatch import count_operations, dispatch_seconds
from jobs.lab.gpu_parts import (
    DISPATCH_SECONDS,
    QUESTION,
    dispatched_seconds,
    gpu_seconds,
    operations,
    parts_of,
    prefilled,
)
from jobs.lab.large_job import (
    answer_objects,
    committing_hours,
    driver_hours,
    job_duration,
    large_job,
    large_job_table,
    probe_hours,
    together,
)
from jobs.lab.roofline import point, points, with_tables
from pipeline.plan.estimates import duration

DOCUMENT = Path(__file__).parents[3] / "docs" / "performance.md"


def test_the_document_is_current() -> None:
    """`python -m jobs.lab.roofline docs/performance.md` writes it."""
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_tables(text) == text


def test_a_document_without_a_place() -> None:
    """Said, instead of a table that is nowhere."""
    with pytest.raises(ValueError, match="no place for 'roofline'"):
        with_tables("# Performance\n")


def test_a_point() -> None:
    """Operations over bytes; time by what takes longer, and by what is moved besides."""
    found = point("x", Work(products=100, moved=10, step_bytes=40), 7, Rates(products=10, attention=1, bytes=2))
    assert (found.flops, found.bytes, found.intensity) == (100, 50, 2)
    assert found.seconds == 40 / 2 + 10 / 2
    assert found.ridge == 5


def test_a_decoding_step_reads_the_weights() -> None:
    """6.5 billion parameters in the layers and 0.54 in the head of Qwen2-7B, two bytes each, 57 KB of cache a token."""
    layers = 28 * (2 * 3584 * (3584 + 512) + 3 * 3584 * 18944)
    head = 3584 * 152064
    assert layers == pytest.approx(6.52e9, rel=0.005)
    rows = GPU_DECODE_ROWS
    one, full = (
        next(p for p in points() if p.name == f"one decoding step, {name}") for name in ("1 answer", f"{rows} answers")
    )
    cached = 627 + 30 + 1
    assert one.bytes == 2 * (layers + head) + cached * 28 * 2 * 512 * 2
    assert one.flops == 2 * (layers + head) + 4 * 3584 * 28 * cached
    assert full.flops == rows * one.flops
    assert full.bytes - one.bytes == (rows - 1) * cached * 28 * 2 * 512 * 2


def test_prefilling_a_tenth_is_a_tenth_of_the_products() -> None:
    """But for rounding; and attention shrinks with the square."""
    parts, rival = parts_of("C", 1), parts_of("B", 1)
    assert parts.prefix.products / rival.prefix.products == pytest.approx(0.1, rel=1e-3)
    assert parts.prefix.attention / rival.prefix.attention == pytest.approx(0.01, rel=1e-2)
    assert LLAVA_7B.frame_tokens == 196


def test_what_a_batch_holds() -> None:
    """As the document says: as many answers behind a tenth of the tokens as a step has rows, behind all of them six."""
    for arm, most in (("C", GPU_DECODE_ROWS), ("B", 6)):
        prefix = 6272 if arm == "B" else 627
        # Attention's queries are padded to 32.
        answer = grown_size(prefix + 32, prefix + QUESTION.tokens + QUESTION.generated)
        assert (MAX_BATCH_TOKENS - prefix) // answer == most


def test_the_cache_spares_vision_only() -> None:
    """Warm is cold without encoding and compressing."""
    cold, warm = gpu_seconds("C", 4), gpu_seconds("D", 4)
    assert (warm["encode"], warm["compress"]) == (0, 0)
    assert {part: cold[part] for part in ("prefix", "questions", "decode")} == {
        part: warm[part] for part in ("prefix", "questions", "decode")
    }


def test_the_large_job_uses_every_gpu() -> None:
    """A million videos on 64 GPUs: the slower of encode and answer takes at least what all GPUs together need."""
    todo, rates, pools = large_job()
    assert pools.encode.size + pools.answer.size == 64
    assert (todo.frames, todo.answers, todo.kept_tokens) == (32_000_000, 20_000_000, 627_000_000)
    lasts = duration(todo, rates, pools, num_gpus=64, gpu_hour_price=3.0)
    # Three clips' sixty answers share a step.
    assert together() == 3
    assert 2 * gpu_seconds("C", 20, 3)["decode"] < gpu_seconds("C", 20)["decode"]
    needed = 1_000_000 * sum(gpu_seconds("C", 20, 3).values()) / 64 / 3600
    slower = max(lasts.stage_hours["encode"], lasts.stage_hours["answer"])
    assert needed <= slower < 1.1 * needed
    assert lasts.hours == max(slower, lasts.stage_hours["decode"])


def test_operations_are_those_of_28_layers() -> None:
    """A decoding step is as many operations a layer as on two layers, and a prefix does not hang on its length."""
    counted, shorter = operations(), count_operations(4, 30, (1, 2))
    assert counted.prefix == shorter.prefix
    assert counted.step == shorter.step
    assert 28 * 40 < counted.step < 28 * 120
    # A tower's blocks of 16 frames: two of them here, one there.
    assert counted.encode > 1.5 * shorter.encode
    assert prefilled(counted, 1) == counted.questions[1]
    assert prefilled(counted, GPU_DECODE_ROWS) == counted.questions[GPU_DECODE_ROWS]
    assert counted.questions[4] < prefilled(counted, 8) < counted.questions[16]


def test_an_operation_takes_some_microseconds() -> None:
    """Of the same order as the one that the document counts with, on any machine."""
    assert DISPATCH_SECONDS / 10 < dispatch_seconds() < 30 * DISPATCH_SECONDS


def test_python_only_adds() -> None:
    """Steps wait for it, long prefixes do not; what an arm does not do costs nothing."""
    for arm in "BCD":
        kernels, python = gpu_seconds(arm, 4), dispatched_seconds(arm, 4)
        assert all(python[part] >= kernels[part] for part in kernels)
        assert [part for part in kernels if not python[part]] == [part for part in kernels if not kernels[part]]
    assert dispatched_seconds("D", 20, 3)["decode"] == pytest.approx(dispatched_seconds("D", 20)["decode"] / 3)
    steps = dispatched_seconds("D", 1)["decode"]
    assert steps == pytest.approx(15 * operations().step * DISPATCH_SECONDS)
    assert dispatched_seconds("B", 1)["prefix"] == gpu_seconds("B", 1)["prefix"]


def test_the_large_job_waits_for_its_driver() -> None:
    """A million clips at 19 ms of one process; jobs side by side share them until GPUs are what is waited for."""
    assert driver_hours() == pytest.approx(1e6 * 0.019 / 3600)
    lasts, python = job_duration(), job_duration(dispatched=True)
    assert lasts.hours is not None
    assert lasts.hours < driver_hours()
    assert python.stage_hours["answer"] > lasts.stage_hours["answer"]
    assert python.stage_hours["decode"] == lasts.stage_hours["decode"]
    table = large_job_table()
    assert "| hours of one job | 5.3: its driver takes 19 ms of CPU a clip and passes on 53 a second |" in table
    # 112.5 TB through 52 nodes.
    assert probe_hours() == pytest.approx(112.5e12 / (52 * 1.25e9) / 3600)
    # Ten drivers with 2,000 commits each, of 50 objects: five times ten; one with 20,000 of 8.
    assert committing_hours(10) == pytest.approx(2_000 * 5 * 0.03 / 3600)
    assert committing_hours(1) == pytest.approx(20_000 * 0.03 / 3600)
    assert "| hours of 10 jobs | 0.53: each has a part of the videos table" in table
    assert "30 ms each and 10 at once: 5 minutes |" in table
    # The whole plan in memory: 730 bytes a video.
    assert "8 GB are full with 10 million videos, after 17 minutes" in table


def test_objects_of_answers() -> None:
    """A commit has 50 clips: of two planned shards, each a 64th of the videos and so 4 of 256 shards on storage."""
    assert answer_objects() == 20_000 * 2 * 4
    # A tenth of the videos is planned in 8 shards, and 50 clips of 64 shards on storage have 50 objects at most.
    assert answer_objects(10) == 20_000 * 50
