"""`make gpu-check`: what of it a CPU can show, so that the first user with a GPU meets no typing error."""

from __future__ import annotations

import pytest
import torch

from tests import gpu_check
from tests.test_bench_answers import TINY


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: make gpu-check")
def test_it_says_why_it_skips(capsys: pytest.CaptureFixture[str]) -> None:
    """Every check by name, and no failure."""
    assert gpu_check.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(gpu_check.CHECKS)
    assert all(line.startswith("skipped  ") and "CUDA" in line for line in lines)


def test_a_check_that_is_not_met_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With its figures."""

    def slow() -> str:
        raise gpu_check.UnmetError("7.00 ms (goal 5)")

    monkeypatch.setattr(gpu_check, "CHECKS", (slow,))
    monkeypatch.setattr(gpu_check, "why_not", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert gpu_check.main() == 1
    assert "NOT MET  slow: 7.00 ms (goal 5)" in capsys.readouterr().out


def test_the_checks_on_a_cpu() -> None:
    """Those that need no more than another device run on this one too: equal answers, bfloat16 near float32."""
    assert gpu_check.answers_agree("cpu", TINY) == "8 of 8 answers are equal"
    assert "features differ by" in gpu_check.bfloat16_agreement("cpu", TINY)
    assert "differ by at most" in gpu_check.attention_agreement("eager", "cpu", TINY)
