"""`bench answers`: the arithmetic of counts and limits, and that the arms which keep all tokens answer alike."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flashvid.models import Answer
from jobs.bench.answers import QUICK, AnswerCosts, ArmCost, check_same_answers, counted_work
from jobs.bench.answers_arms import QUESTIONS, Bench, Counts
from jobs.bench.answers_command import break_even
from jobs.bench.answers_model import BENCH, ModelSize
from jobs.bench.answers_rates import BareKernels
from jobs.bench.answers_work import (
    AskedQuestion,
    PartRates,
    Parts,
    Rates,
    Work,
    decoding,
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


def test_seconds_of_work() -> None:
    """A step waits for its arithmetic or for its bytes; what is moved between products comes on top."""
    rates = Rates(products=10, attention=5, bytes=2)
    assert rates.seconds(Work(20, 5, 4, 0)) == 2 + 1 + 2
    assert rates.seconds(Work(20, 5, step_bytes=20)) == 10
    assert Rates(10, 5, 2, activations=3).seconds(Work(20, 5, 4, 6)) == 2 + 1 + 2 + 2


def test_all_tokens_give_the_same_answers(bench: Bench) -> None:
    """Stock transformers, the shared prefill, and compression that keeps everything; counts by hand."""
    asked = check_same_answers(bench, QUESTIONS[:2])
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
    _, _, parts = counted_work(bench, arm, asked, asked)
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
    nothing, rates = Parts(*[Work()] * 5), PartRates.same(Rates(1, 1, 1))
    costs = tuple(
        ArmCost(arm, 1, time, {}, {}, rates, nothing, Counts(0, 0, 0, 0, 0, 0), 0.0, 3, 1, ())
        for arm, time in seconds.items()
    )
    assert break_even(AnswerCosts(QUICK, costs), "B") == question


def test_bare_kernels_have_rates() -> None:
    """A part's products, attention and bytes; what a part does not have takes no time."""
    kernels = BareKernels(TINY, 40, 6, 1, run_seconds=0.001)
    kernels.turn()
    rates = kernels.rates()
    for part in (rates.encode, rates.prefix, rates.questions):
        assert all(0 < rate < math.inf for rate in (part.products, part.attention, part.bytes, part.activations))
    assert rates.compress.seconds(Work(attention=1, moved=1)) == 0
    assert rates.decode.activations == math.inf


def bench_lengths(answers: tuple[Answer, ...]) -> tuple[int, list[int]]:
    """Tokens that prompts share, and each one's own."""
    shared = answers[0].num_shared_tokens
    return shared, [answer.num_prompt_tokens - shared for answer in answers]
