"""`bench answers`: the arithmetic of counts and limits, and that the arms which keep all tokens answer alike."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flashvid.engine.constants import MAX_BATCH_TOKENS
from flashvid.engine.decoder import Decoder
from flashvid.models import Answer
from jobs.bench.turns import Patience
from jobs.lab.answers import ARMS, QUICK, AnswerCosts, ArmCost, Scope, check_same_answers, counted_work, measure_answers
from jobs.lab.answers_arms import QUESTIONS, Bench, Counts
from jobs.lab.answers_command import answers_markdown, break_even, predicted_seconds, write_answers
from jobs.lab.answers_model import BENCH, ModelSize
from jobs.lab.answers_rates import language_kernels, vision_kernels
from jobs.lab.answers_work import (
    AskedQuestion,
    PartRates,
    Parts,
    Rates,
    Work,
    decoding,
    decoding_bytes,
    encoding,
    layer_parameters,
    prefill,
)

TINY = ModelSize(16, 24, 2, 2, 5, 32, 40, 4, 4, 2, 480, 4)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A tiny model and four frames."""
    return Bench(tmp_path_factory.mktemp("bench"), TINY, 4)


def test_the_model_has_the_papers_proportions() -> None:
    """785 : 1221 at 32 x 196 tokens, with the newline."""
    assert BENCH.frame_tokens == 196
    whole = prefill(BENCH, 0, 32 * 196 + 1, BENCH.layers).flops
    assert encoding(BENCH, 32, scores=False).flops / whole == pytest.approx(785 / 1221, rel=0.01)


def test_products_are_those_torch_counts() -> None:
    """Of the linear layers of one decoder layer, by torch's own counter."""
    shapes = [(32, 32), (32, 16), (32, 16), (32, 32), (32, 40), (32, 40), (40, 32)]
    with FlopCounterMode(display=False) as counter:
        for before, behind in shapes:
            torch.nn.functional.linear(torch.zeros(7, before), torch.zeros(behind, before))
    assert prefill(TINY, 0, 7, 1).products == counter.get_total_flops() == 14 * layer_parameters(TINY)


def test_a_prompt_in_two_parts_costs_what_it_costs_whole() -> None:
    """A token attends to itself and those before it, whichever part these are in; but weights are read once more."""
    whole, weights = prefill(TINY, 0, 42, 2), Work(step_bytes=2 * 4 * layer_parameters(TINY))
    assert prefill(TINY, 0, 30, 2) + prefill(TINY, 30, 12, 2) == whole + weights


def test_answers_decoded_together_read_the_weights_once() -> None:
    """And each its own keys and values; a first token needs no step."""
    pair = [AskedQuestion(3, 4)] * 2
    alone, together = decoding(TINY, 10, pair, rows=1), decoding(TINY, 10, pair, rows=16)
    assert together.flops == alone.flops
    weights = 4 * (TINY.layers * layer_parameters(TINY) + 32 * 480)
    assert alone.step_bytes - together.step_bytes == 3 * weights
    assert decoding(TINY, 10, [AskedQuestion(3, 1)], rows=16).step_bytes == 0


def test_one_copy_of_a_prefix_is_read_once() -> None:
    """A step reads it, and each answer's own keys; what is computed stays."""
    three = [AskedQuestion(3, 4)] * 2 + [AskedQuestion(3, 3)]
    each, once = (decoding(TINY, 10, three, rows=16, copies=copies) for copies in (None, 1))
    assert once.flops == each.flops
    # Three answers in two steps, two in the third.
    assert each.step_bytes - once.step_bytes == (2 + 2 + 1) * 10 * TINY.layers * TINY.kv_bytes
    assert decoding(TINY, 10, three, rows=16, copies=3) == each
    pruned = decoding(TINY, 10, three, rows=16, behind=1, text=4, copies=1)
    spared = decoding(TINY, 10, three, rows=16, behind=1, text=4).step_bytes - pruned.step_bytes
    assert spared == 5 * (10 * (TINY.layers - 1) + 4) * TINY.kv_bytes


def test_pruned_answers_read_fewer_keys(bench: Bench) -> None:
    """Every step the keys that layers hold by then, as the decoder counts them, and the weights."""
    asked = bench.cold(QUESTIONS[:1], 0.2, inner_pruning=True)
    _, _, parts = counted_work(bench, "C inner", asked)
    layers = asked.answers[0].token_layers
    steps = asked.answers[0].num_generated_tokens - 1
    held = [layers.shared + layers.prompt + step * TINY.layers for step in range(1, steps + 1)]
    assert parts.decode.step_bytes == steps * decoding_bytes(TINY) + sum(held) * TINY.kv_bytes
    whole = TINY.layers * (asked.answers[0].num_prompt_tokens + 1)
    assert held[0] < whole


def test_seconds_of_work() -> None:
    """A step waits for its arithmetic or for its bytes; what is moved between products comes on top."""
    rates = Rates(products=10, attention=5, bytes=2)
    assert rates.seconds(Work(20, 5, 4, 0)) == 2 + 1 + 2
    assert rates.seconds(Work(20, 5, step_bytes=20)) == 10
    assert Rates(10, 5, 2, activations=3).seconds(Work(20, 5, 4, 6)) == 2 + 1 + 2 + 2
    assert Rates(10, 5, 2, 3, probabilities=4).seconds(Work(20, 5, 4, 6, probabilities=8)) == 2 + 1 + 2 + 2 + 2


def test_all_tokens_give_the_same_answers(bench: Bench) -> None:
    """Stock transformers, the shared prefill, and compression that keeps everything; counts by hand."""
    two = QUESTIONS[:2]
    asked = {"A": bench.naive(two), "B": bench.rival(two), "C at 1.0": bench.cold(two, 1.0)}
    check_same_answers(asked)
    layers = {arm: found.counts.token_layers_prefilled for arm, found in asked.items()}
    shared, own = bench_lengths(asked["B"].answers)
    assert layers == {
        "A": 4 * (2 * shared + sum(own)),
        "B": 4 * (shared + sum(own)),
        "C at 1.0": 4 * (shared + sum(own)),
    }
    assert (asked["B"].counts.bytes_written, asked["B"].counts.bytes_read) == (0, 0)
    assert [(found.counts.frames_decoded, found.counts.encoder_calls) for found in asked.values()] == [
        (8, 2),
        (4, 1),
        (4, 1),
    ]


@pytest.mark.parametrize("inner_pruning", [False, True])
def test_counted_work_is_the_work_done(bench: Bench, inner_pruning: bool) -> None:
    """The products of prefill, counted from lengths, are those of the token-layers that the decoder reports."""
    asked = bench.cold(QUESTIONS[:3], 0.2, inner_pruning=inner_pruning)
    arm = "C inner" if inner_pruning else "C"
    _, _, parts = counted_work(bench, arm, asked)
    assert (parts.prefix + parts.questions).products == 2 * layer_parameters(TINY) * asked.counts.token_layers_prefilled
    assert asked.counts.bytes_written > 0


def test_the_cache_needs_neither_frames_nor_encoder(bench: Bench) -> None:
    """And answers as the clip that was just compressed."""
    cold, warm = bench.cold(QUESTIONS[:2]), bench.warm(QUESTIONS[:2])
    assert warm.responses == cold.responses
    assert (warm.counts.frames_decoded, warm.counts.encoder_calls, warm.counts.bytes_written) == (0, 0, 0)
    # The same tokens under two keys: Parquet packs one key a few bytes better than another.
    assert warm.counts.bytes_read == pytest.approx(cold.counts.bytes_written, rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "question"),
    [({"B": 3.0, "C": 4.0, "D": 1.0}, 2), ({"B": 3.0, "C": 2.0, "D": 1.0}, 1), ({"B": 3.0, "C": 5.0, "D": 3.0}, None)],
)
def test_when_the_cache_has_paid_for_itself(seconds: dict[str, float], question: int | None) -> None:
    """Building takes C - D, every question spares B - D; never, where it spares nothing."""
    costs = tuple(cost_of(arm, time) for arm, time in seconds.items())
    assert break_even(AnswerCosts(QUICK, costs), "B") == question


def test_bare_kernels_have_rates() -> None:
    """A part's products, attention and bytes; what a part does not have takes no time."""
    vision, language = vision_kernels(TINY, 0.001), language_kernels(TINY, 40, 6, 1, 1, 0.001)
    for kernels in (vision, language):
        kernels.turn()
    rates = PartRates(**vision.rates(), **language.rates())
    for part in (rates.encode, rates.prefix, rates.questions):
        assert all(0 < rate < math.inf for rate in (part.products, part.attention, part.bytes, part.activations))
    assert 0 < rates.encode.probabilities < math.inf
    assert rates.compress.seconds(Work(attention=1, moved=1)) == 0
    assert rates.decode.activations == rates.prefix.probabilities == math.inf


def test_answers_over_one_copy_take_less_time() -> None:
    """Of 64 answers, each with its own half a megabyte of keys in each layer, or all with the same."""
    size = replace(TINY, width=128, heads=8, kv_heads=2)
    own, same = (language_kernels(size, 2000, 6, 64, copies, 0.02) for copies in (64, 1))
    for _ in range(3):
        own.turn()
        same.turn()
    attention = [kernels.rates()["decode"].attention for kernels in (own, same)]
    assert attention[1] > attention[0]


def cost_of(arm: str, seconds: float, *, control: float = 0.0, asked: tuple[AskedQuestion, ...] = ()) -> ArmCost:
    """An arm of which little is known but how long it took."""
    return ArmCost(
        arm=arm,
        questions=1,
        seconds=seconds,
        shortest=0.9 * seconds,
        steps={},
        limits=dict.fromkeys(("frames", "encode", "compress", "prefix", "questions", "decode"), 0.1),
        rates=PartRates.same(Rates(1, 1, 1)),
        parts=Parts(*[Work()] * 5),
        counts=Counts(0, 0, 0, 0, 0, 0, 0),
        control=control,
        turns=3,
        prompt=6272 if arm in "AB" else 627,
        asked=asked,
    )


@pytest.mark.parametrize(
    ("seconds", "control_b", "control_d", "told"),
    [
        (3.0, 0.01, 0.02, True),
        # Within the band in which the same arm differs from itself.
        (1.04, 0.01, 0.02, False),
        (0.96, 0.01, 0.02, False),
        (1.06, 0.01, 0.02, True),
        # A control that was not reached, of either arm: nothing is claimed, however large.
        (3.0, 0.06, 0.02, False),
        (3.0, 0.01, 0.30, False),
    ],
)
def test_no_claim_inside_the_band(seconds: float, control_b: float, control_d: float, told: bool) -> None:
    """Nor with a control that does not agree with itself; the report then says of which arms."""
    question = (AskedQuestion(30, 8),)
    costs = tuple(
        cost_of(arm, seconds if arm in "AB" else 1.0, control=control_d if arm == "D" else control_b, asked=question)
        for arm in ARMS
    )
    text = answers_markdown(AnswerCosts(QUICK, costs), "idle")
    cells = next(line.split("|") for line in text.splitlines() if line.startswith("| 1 | D | 1.000"))
    assert [cell.strip() for cell in cells[7:9]] == ([f"{seconds:.1f}x"] * 2 if told else ["", ""])
    # Its limit is 0.6 s, and so is B's; its shortest run took 0.9.
    assert cells[4].strip() == "0.900"
    assert cells[6].strip() == ("+50%" if control_d <= 0.05 else "")
    assert cells[9].strip() == ("0.6x" if max(control_b, control_d) <= 0.05 else "")
    assert ("Not reported:" in text) == (max(control_b, control_d) > 0.05)
    assert ("has paid for itself" in text) == (max(control_b, control_d) <= 0.05)


def test_a_prediction_is_of_the_papers_model() -> None:
    """Compression and the cache spare what they spare; a question more costs little where the prefix is shared."""
    one, four = (tuple([AskedQuestion(30, 8)] * number) for number in (1, 4))
    seconds = {arm: predicted_seconds(cost_of(arm, 1.0, asked=one), 32) for arm in ARMS}
    assert seconds["D"] < seconds["C inner"] < seconds["B"]
    assert seconds["D"] < seconds["C"] < seconds["B"]
    # 14 GB of weights at four fifths of 3.35 TB/s, seven steps and a prefill.
    assert 8 * 0.0052 < seconds["D"] < 0.1
    assert predicted_seconds(cost_of("A", 1.0, asked=four), 32) == pytest.approx(4 * seconds["A"], rel=0.01)
    assert predicted_seconds(cost_of("B", 1.0, asked=four), 32) < 1.1 * seconds["B"]


def test_measured_written_and_told(tmp_path: Path) -> None:
    """All of it at a tiny size: turns of each arm, counts, the tables, and a file of figures."""
    patience = Patience(least=2, most=2)
    scope = Scope(num_frames=4, questions=(1, 3), loop_turns=(2, 1), patience=patience, kernel_seconds=0.001)
    found = measure_answers(scope, TINY)
    assert [(cost.questions, cost.arm) for cost in found.costs] == [(n, arm) for n in (1, 3) for arm in ARMS]
    assert [found.of("A", number).turns for number in (1, 3)] == [2, 1]
    assert all(cost.turns == 2 for cost in found.costs if cost.arm != "A")
    assert all(cost.seconds >= cost.shortest > 0 and cost.limit > 0 for cost in found.costs)
    # A control for arms of seconds, another for the one from the cache.
    assert found.of("B", 3).control == found.of("A", 3).control == found.of("C", 3).control != found.of("D", 3).control
    # Every answer of the second has its own keys and values, and a tenth of the tokens needs fewer.
    held = {arm: found.of(arm, 3).counts.kv_bytes for arm in ARMS}
    assert held["A"] < held["C"] == held["D"] < held["B"]
    write_answers(tmp_path, found, "idle")
    text = (tmp_path / "answers.md").read_text()
    assert text.count("\n| 3 | C inner |") == 3
    with (tmp_path / "answers.csv").open() as file:
        rows = [*csv.DictReader(file)]
    assert [(int(row["questions"]), row["arm"]) for row in rows] == [(n, arm) for n in (1, 3) for arm in ARMS]
    assert [float(row["cpu_seconds"]) for row in rows] == [cost.seconds for cost in found.costs]
    assert (tmp_path / "answers.png").stat().st_size > 1000


def test_the_rival_decodes_all_answers_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all tokens times sixteen are more than the handle would hold by default."""
    bench, sizes, step = Bench(tmp_path, TINY, 384), [], Decoder.step

    def counted(self: Decoder, tokens: list[int], *others: Any) -> Any:
        sizes.append(len(tokens))
        return step(self, tokens, *others)

    monkeypatch.setattr(Decoder, "step", counted)
    asked = bench.rival(QUESTIONS)
    assert 16 * asked.answers[0].num_prompt_tokens > MAX_BATCH_TOKENS
    assert sizes[0] == 16
    assert len(sizes) == max(answer.num_generated_tokens for answer in asked.answers) - 1


def bench_lengths(answers: tuple[Answer, ...]) -> tuple[int, list[int]]:
    """Tokens that prompts share, and each one's own."""
    shared = answers[0].num_shared_tokens
    return shared, [answer.num_prompt_tokens - shared for answer in answers]
