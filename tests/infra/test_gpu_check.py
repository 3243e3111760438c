"""`make gpu-check`: what of it a CPU can show, so that the first user with a GPU meets no typing error."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from flashvid.engine.decoder import Decoder
from tests import gpu_check
from tests.jobs.lab.test_bench_answers import TINY
from tests.support.company import QWEN2_7B, differing, random_decoder

SMALL = QWEN2_7B | {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: make gpu-check")
def test_it_says_why_it_skips(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check by name, and no failure."""
    assert gpu_check.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(gpu_check.CHECKS)
    assert all(line.startswith("skipped  ") and "CUDA" in line for line in lines)


def run(
    checks: tuple[Callable[[], str], ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> tuple[int, str]:
    """These checks, as if there were a GPU: the exit code and what is printed."""
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    monkeypatch.setattr(gpu_check, "why_not", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    return gpu_check.main(), capsys.readouterr().out


def test_a_check_that_is_not_met_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With its figures."""

    def slow() -> str:
        raise gpu_check.UnmetError("7.00 ms (goal 5)")

    code, text = run((slow,), monkeypatch, capsys)
    assert code == 1
    assert "NOT MET  slow: 7.00 ms (goal 5)" in text


def test_a_surprise_ends_no_other_check(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told with what it was, and counts as unmet."""

    def surprising() -> str:
        raise RuntimeError("CUDA error: no kernel image")

    def fine() -> str:
        return "all well"

    code, text = run((surprising, fine), monkeypatch, capsys)
    assert code == 1
    assert "FAILED   surprising: RuntimeError: CUDA error: no kernel image" in text
    assert "ok       fine: all well" in text


def test_the_checks_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that need no more than another device run on this one too: equal answers, bfloat16 near float32."""
    equal = gpu_check.answers_agree("cpu", TINY)
    assert equal == "4 of 4 answers are equal with all tokens, 4 of 4 answers are equal with a tenth"
    assert "features differ by" in gpu_check.bfloat16_agreement("cpu", TINY)
    assert "differ by at most" in gpu_check.attention_agreement("eager", "cpu", TINY)
    assert gpu_check.the_same_in_any_company("cpu", SMALL).startswith("0 float32 questions differ, 0 float32 answers")
    monkeypatch.setattr(gpu_check, "_GOAL_MS", 1000)
    assert "ms (goal 1000)" in gpu_check.compression_time("cpu", (4, 9, 16))
    monkeypatch.setattr(gpu_check, "_GOAL_MS", 0)
    with pytest.raises(gpu_check.UnmetError, match="goal 0"):
        gpu_check.compression_time("cpu", (4, 9, 16))


@pytest.mark.parametrize(
    ("error", "check"),
    [
        ("_FEATURE_ERROR", lambda: gpu_check.bfloat16_agreement("cpu", TINY)),
        ("_LOGIT_ERROR", lambda: gpu_check.bfloat16_logits("cpu", TINY)),
        ("_LIKELIHOOD_ERROR", lambda: gpu_check.attention_agreement("eager", "cpu", TINY)),
    ],
)
def test_what_compares_with_nothing_is_not_met(
    error: str, check: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that gives NaN differs by NaN, which is neither above nor below: as here, where the bound is one."""
    monkeypatch.setattr(gpu_check, error, math.nan)
    with pytest.raises(gpu_check.UnmetError, match="differ by"):
        check()


def test_logits_in_bfloat16() -> None:
    """Rounded they differ, and not by more than rounding does."""
    said = gpu_check.bfloat16_logits("cpu", TINY)
    assert "with all tokens" in said
    assert "0.00%" not in said


def test_answers_have_to_agree_each_way() -> None:
    """All answers of one way do not make up for the other's."""
    words = ["a", "b", "c", "d"]
    half = [words, ["a", "b", "x", "y"]]
    assert gpu_check.agreement({"all": half}) == "2 of 4 answers are equal with all"
    with pytest.raises(gpu_check.UnmetError, match=r"4 of 4 .* with all, 1 of 4 .* with a tenth"):
        gpu_check.agreement({"all": [words, words], "a tenth": [words, ["a", "w", "x", "y"]]})


def test_a_copy_that_waits_is_found() -> None:
    """On a CPU everything does; what arrives is right all the same, or another reason would be given."""
    with pytest.raises(gpu_check.UnmetError, match="the call returned after"):
        gpu_check.copies_do_not_wait("cpu", width=64, side=8)


def test_actors_on_one_gpu_are_found() -> None:
    """Each has one of its own, and sees no other."""
    assert gpu_check.pinning([("0", 1, "cuda:0"), ("1", 1, "cuda:0")]) == "2 actors on GPUs 0, 1"
    with pytest.raises(gpu_check.UnmetError):
        gpu_check.pinning([("0", 1, "cuda:0"), ("0", 1, "cuda:0")])
    with pytest.raises(gpu_check.UnmetError):
        gpu_check.pinning([("0", 2, "cuda:0"), ("1", 1, "cuda:0")])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_company_that_changes_an_answer_is_found(attention: str) -> None:
    """A decoder whose head sees how many rows there are: every row alone differs."""

    class Wrong(Decoder):
        def logits(self, hidden: torch.Tensor) -> torch.Tensor:
            return super().logits(hidden) + hidden[:, :1].sum()

    decoder = random_decoder(SMALL, "cpu", torch.float32, attention)
    assert differing(decoder) == (0, 0)
    decoder.__class__ = Wrong
    assert differing(decoder) == (decoder.decode_rows.most, decoder.decode_rows.most)
