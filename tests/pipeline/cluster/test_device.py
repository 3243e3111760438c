"""Where a model goes: to the GPU that is reserved for it, or nowhere; never to the CPU in silence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.exceptions import RayTaskError

from flashvid.errors import ConfigurationError
from pipeline.cluster import local_ray
from pipeline.cluster.connection import connected, fatal_cause
from pipeline.cluster.device import DEVICE_VARIABLE, reserved_device
from pipeline.errors import ClusterUnreachableError
from pipeline.stages import AnswerStage, EncodeStage, StageSettings
from tests.support.embedded_model import TINY
from tests.support.helpers import job, run_context

ROOT = Path(__file__).parents[3]
# As it is outside of the tests, whose Ray has GPUs that do not exist.
OUTSIDE = {"env_vars": {DEVICE_VARIABLE: ""}}

pytestmark = [
    pytest.mark.usefixtures("ray_session"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the reserved GPU is here: tests/gpu_check.py"),
]


# A process that had a GPU would end with its task, and the next one would import everything again.
@ray.remote(num_cpus=0, runtime_env=OUTSIDE, max_calls=0)
def build(stage: str, settings: StageSettings) -> None:
    """The constructor of a stage, as Ray Data calls it."""
    if stage == "encode":
        EncodeStage(settings)
    else:
        AnswerStage(settings)


@ray.remote(num_cpus=0, runtime_env=OUTSIDE, max_calls=0)
def chosen() -> str | None:
    """What a process is given."""
    return reserved_device()


@pytest.mark.parametrize("stage", ["encode", "answer"])
@pytest.mark.parametrize("share", [1, 0.4])
def test_a_reserved_gpu_that_torch_does_not_find_ends_the_run(tmp_path: Path, stage: str, share: float) -> None:
    """With torch's own words on the driver, and where to read on."""
    settings = StageSettings(run_context(job(cache=str(tmp_path)), model_identity=TINY.identity), None, ray.put(None))
    with pytest.raises(RayTaskError) as caught:
        ray.get(build.options(num_gpus=share).remote(stage, settings))
    error = fatal_cause(caught.value)
    assert isinstance(error, ConfigurationError)
    assert re.match(r"node \w+: a GPU is reserved for this process, but device 'cuda' is not here", str(error))
    assert re.search(r"torch finds 0 GPUs \(.*(not compiled with CUDA|driver).*\)", error.message)
    assert "GPUs in docs/operations.md" in error.message
    assert "or start Ray's nodes with FLASHVID_DEVICE=cpu in their environment" in error.message


def test_without_a_reserved_gpu_the_library_chooses() -> None:
    """As on one's own machine."""
    assert ray.get(chosen.options(num_gpus=0).remote()) is None


def test_the_environment_has_the_last_word() -> None:
    """Without it every run of these tests would be refused."""
    inside = {"env_vars": {DEVICE_VARIABLE: "cpu"}}
    assert ray.get(chosen.options(num_gpus=1, runtime_env=inside).remote()) == "cpu"


@pytest.mark.parametrize(
    ("address", "torch_finds_one", "expected"), [("local", False, 0), ("local", True, None), ("auto", False, None)]
)
def test_a_ray_of_our_own_has_no_gpus_that_torch_cannot_use(
    monkeypatch: pytest.MonkeyPatch, address: str, torch_finds_one: bool, expected: int | None
) -> None:
    """A laptop with an old driver runs the demo on its CPU; of a cluster, others have said what it has."""
    asked: dict[str, Any] = {}

    def init(**options: Any) -> None:
        asked.update(options)
        raise ConnectionError("not here")

    # The Ray of the other tests keeps its token.
    monkeypatch.setattr(local_ray, "read_authentication", lambda: None)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: torch_finds_one)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ClusterUnreachableError), connected(address):
        pass
    assert asked.get("num_gpus") == expected


def test_the_runbook_names_the_driver() -> None:
    """Of the CUDA that the image asks the container runtime for; which is torch's, where this torch has one."""
    (asked,) = re.findall(r'NVIDIA_REQUIRE_CUDA="cuda>=([\d.]+)"', (ROOT / "infra/docker/Dockerfile").read_text())
    text = (ROOT / "docs" / "operations.md").read_text()
    assert f"torch for CUDA {asked}: nodes need NVIDIA's driver 580 or newer" in text
    assert "### GPUs" in text
    assert torch.version.cuda in (None, asked)
