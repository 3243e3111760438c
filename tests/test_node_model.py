"""What an actor does on a node that does not have the run's model, or has another one of that name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from flashvid.errors import ModelLoadError
from flashvid.models import resolve_model
from pipeline.config import ModelConfig
from pipeline.node_model import model_on_this_node

EMBEDDED = resolve_model("tiny-random")


class Waiting:
    """Instead of a clock: what happens during each pause, and how long these were."""

    def __init__(self, *events: Callable[[], object]) -> None:
        self.events = list(events)
        self.pauses: list[float] = []

    def __call__(self, seconds: float) -> None:
        """Pause."""
        self.pauses.append(seconds)
        if self.events:
            self.events.pop(0)()


def test_a_model_that_is_there_is_not_waited_for() -> None:
    sleep = Waiting()
    assert model_on_this_node(ModelConfig(name="tiny-random"), EMBEDDED.identity, sleep=sleep).path == EMBEDDED.path
    assert sleep.pauses == []


def test_a_node_without_the_model_waits_until_all_of_it_is_there(tmp_path: Path) -> None:
    """Absent, then half copied, then another checkpoint of the same shape, then the one that was planned with."""
    target = tmp_path / "model"
    weights = (EMBEDDED.path / "model.safetensors").read_bytes()

    def copy_all_but_the_weights() -> None:
        shutil.copytree(EMBEDDED.path, target, ignore=shutil.ignore_patterns("*.safetensors"))

    def copy_others() -> None:
        (target / "model.safetensors").write_bytes(weights[:-4] + b"\0\0\0\0")

    def copy_the_weights() -> None:
        (target / "model.safetensors").write_bytes(weights)

    sleep = Waiting(copy_all_but_the_weights, copy_others, copy_the_weights)
    found = model_on_this_node(ModelConfig(name=str(target)), EMBEDDED.identity, sleep=sleep)
    assert found.path == target
    assert sleep.pauses == [1.0, 2.0, 4.0]


def test_who_needs_no_weights_does_not_compare_them(tmp_path: Path) -> None:
    target = tmp_path / "model"
    shutil.copytree(EMBEDDED.path, target)
    sleep = Waiting()
    assert model_on_this_node(ModelConfig(name=str(target)), None, sleep=sleep).path == target
    assert sleep.pauses == []


@pytest.mark.parametrize(("exists", "reason"), [(False, "no such"), (True, "was planned with sha256:other")])
def test_in_the_end_it_says_what_is_missing(tmp_path: Path, exists: bool, reason: str) -> None:
    target = tmp_path / "model"
    if exists:
        shutil.copytree(EMBEDDED.path, target)
    sleep = Waiting()
    with pytest.raises(ModelLoadError, match="not on this node after 100 s") as raised:
        model_on_this_node(ModelConfig(name=str(target), wait_s=100), "sha256:other", sleep=sleep)
    assert reason in str(raised.value)
    assert str(target) in str(raised.value)
    assert sum(sleep.pauses) == 100
    assert max(sleep.pauses) <= 60
