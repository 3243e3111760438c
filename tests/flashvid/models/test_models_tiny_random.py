"""The embedded random model: reproducible to the byte, loadable by transformers, and sensitive to its inputs."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from flashvid.config import CompressionConfig
from flashvid.models import Answer, GenerationConfig, load_model, resolve_model
from jobs.lab.tiny_model.tiny_random import build
from tests.support.embedded_model import video

QUESTIONS = ("What happens here?", "How many objects are there?", "Which colour moves?", "What happens there?")


@pytest.fixture(scope="module")
def answers() -> dict[tuple[int, str], Answer]:
    """Return answers to four questions about four videos."""
    model = load_model("tiny-random", device="cpu")
    found: dict[tuple[int, str], Answer] = {}
    for seed in range(4):
        compressed = model.compress(model.encode(video(seed), np.arange(6) / 2), CompressionConfig())
        found.update(zip(product([seed], QUESTIONS), model.answer(compressed, QUESTIONS), strict=True))
    return found


def test_the_committed_files_are_what_the_script_writes(tmp_path: Path) -> None:
    """Every file is identical to the byte, and small."""
    build(tmp_path / "rebuilt")
    committed = resolve_model("tiny-random").path
    files = sorted(file.name for file in committed.iterdir())
    assert sorted(file.name for file in (tmp_path / "rebuilt").iterdir()) == files
    for name in files:
        assert (tmp_path / "rebuilt" / name).read_bytes() == (committed / name).read_bytes(), name
    assert sum(file.stat().st_size for file in committed.iterdir()) < 1_500_000


def test_building_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    """The script uses a fixed seed and its own generator."""
    before = torch.get_rng_state()
    build(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_transformers_loads_it_without_complaint() -> None:
    """No tensor is missing, unexpected or of another shape."""
    _, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        resolve_model("tiny-random").path, output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_answers_are_printable_nonsense(answers: dict[tuple[int, str], Answer]) -> None:
    """Answers are syllables of three letters, so that they are not mistaken for real answers."""
    for answer in answers.values():
        assert answer.response
        assert all(len(word) == 3 and word.isascii() and word.isalpha() for word in answer.response.split(" "))


def test_answers_tell_videos_and_questions_apart(answers: dict[tuple[int, str], Answer]) -> None:
    """Answers differ between questions that differ in one letter, even when cut after 6 tokens."""
    assert len({answer.response for answer in answers.values()}) >= 15
    assert len({" ".join(answer.response.split()[:6]) for answer in answers.values()}) >= 15
    # Answers end by an end token, or by max_new_tokens if that is small.
    assert any(answer.finish_reason == "stop" for answer in answers.values())
    assert any(answer.num_generated_tokens > 10 for answer in answers.values())


def test_max_new_tokens_matters() -> None:
    """A shorter answer is the beginning of a longer one."""
    model = load_model("tiny-random", device="cpu")
    compressed = model.compress(model.encode(video(0), np.arange(6) / 2), CompressionConfig())
    long = model.answer(compressed, QUESTIONS, GenerationConfig(max_new_tokens=40))
    short = model.answer(compressed, QUESTIONS, GenerationConfig(max_new_tokens=2))
    for longer, shorter in zip(long, short, strict=True):
        assert longer.response.startswith(shorter.response)
        assert (shorter.num_generated_tokens, shorter.finish_reason) == (2, "length")
    assert any(longer.num_generated_tokens > 2 for longer in long)
