"""What an actor does on a node that does not have the run's model, or has another one of that name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from flashvid.errors import ModelLoadError
from flashvid.models import load_model, resolve, resolve_model
from pipeline.cluster.monitor import RunMonitor
from pipeline.cluster.node_model import model_on_this_node
from pipeline.config import ModelConfig
from pipeline.stages import StageSettings
from pipeline.stages.decode import DecodeStage
from tests.support.helpers import job, run_context

EMBEDDED = resolve_model("tiny-random")
COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


def test_who_needs_no_weights_does_not_wait_for_them(tmp_path: Path) -> None:
    """Half a copy is enough for decoding; what it reads has to be there."""
    target, sleep = tmp_path / "model", Waiting()
    shutil.copytree(EMBEDDED.path, target, ignore=shutil.ignore_patterns("*.safetensors"))
    assert model_on_this_node(ModelConfig(name=str(target)), None, sleep=sleep).path == target
    assert sleep.pauses == []
    (target / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"there is no tokenizer\.json"):
        model_on_this_node(ModelConfig(name=str(target), wait_s=0), None, sleep=sleep)


class QuietDecodeStage(DecodeStage):
    """Without a Ray to announce itself to."""

    def announce(self) -> None:
        """To nobody."""


def test_a_decode_actor_never_fetches_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node has room for a model's settings only; who needs all of the same commit gets the rest afterwards."""
    snapshot = tmp_path / "models--owner--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)

    def download(name: str, *, revision: str, allow_patterns: list[str]) -> str:
        """As the hub: what the patterns name, beside what is there."""
        assert (name, revision) == ("owner/model", COMMIT)
        for file in EMBEDDED.path.iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, snapshot)
        return str(snapshot)

    monkeypatch.setattr(resolve, "snapshot_download", download)
    identity = f"owner/model@{COMMIT}"
    hub_job = job(model={"name": "owner/model", "revision": COMMIT, "wait_s": 0}, cache=str(tmp_path / "tokens"))
    settings = StageSettings(run_context(hub_job, model_identity=identity), RunMonitor(1), None)
    QuietDecodeStage(settings)
    fetched = {file.name for file in snapshot.iterdir()}
    assert {"config.json", "tokenizer.json"} <= fetched
    assert not {name for name in fetched if name.endswith(".safetensors")}
    assert settings.model(weights=False).identity == identity
    assert load_model(settings.model(), part="vision").bytes_read > 0


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
