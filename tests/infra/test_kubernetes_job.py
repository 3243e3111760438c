"""The job file of infra/kubernetes on the nodes of infra/kubernetes and infra/aws: it fits, or it is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flashvid.models.qwen.qwen_preprocess import QwenFramePreprocessor
from pipeline.cluster.resources import Pools, gpus_taken, plan_pools
from pipeline.config import JobConfig
from pipeline.errors import ClusterTooSmallError
from tests.support.kustomize import by_kind, ray_cluster, render
from tests.support.pages import blocks

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
OVERLAYS = ("base", "overlays/spot", "overlays/cluster", "overlays/kueue")
OPERATIONS = ROOT / "docs" / "operations.md"
GIB = 1 << 30


def job(overlay: str = "base") -> JobConfig:
    """The job that is shipped."""
    return JobConfig.model_validate(yaml.safe_load(by_kind(render(FOLDER / overlay))["ConfigMap"]["data"]["job.yaml"]))


def groups(overlay: str) -> dict[str, Any]:
    """Worker groups by name."""
    return {group["groupName"]: group for group in ray_cluster(render(FOLDER / overlay))["workerGroupSpecs"]}


def pools(decode_nodes: int, gpu_nodes: int, *, cpus: float = 8) -> Pools:
    """The job's pools on so many nodes."""
    nodes = (cpus,) * decode_nodes
    return plan_pools(job().resources, cpus_per_node=nodes, gpus_per_node=(1,) * gpu_nodes, encodes=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_begins_on_the_nodes_that_stay_and_grows_to_those_that_may_come(overlay: str) -> None:
    """No pool is larger than its nodes, and no node is beyond what its pools use: it would come for nothing."""
    decode, gpu = groups(overlay)["decode"], groups(overlay)["gpu"]
    cpus = int(decode["rayStartParams"]["num-cpus"])
    made = pools(decode["minReplicas"], gpu["minReplicas"], cpus=cpus)
    assert made["decode"].most * made["decode"].num_cpus == decode["maxReplicas"] * cpus
    assert (made["encode"].num_gpus, made["answer"].num_gpus) == (1, 1)
    assert made["encode"].most + made["answer"].most == gpu["maxReplicas"]
    assert made["encode"].size + made["answer"].size == gpu["minReplicas"]
    # Of decode nodes, one may be on its way.
    assert pools(decode["minReplicas"] - 1, gpu["minReplicas"], cpus=cpus)["decode"] == made["decode"]


def test_without_its_gpus_it_is_refused() -> None:
    """Instead of a 7B model on CPUs."""
    for gpu_nodes in (0, 1):
        with pytest.raises(ClusterTooSmallError, match=rf"can't be placed on {gpu_nodes} GPUs"):
            pools(4, gpu_nodes)


def test_the_runbook_plans_it_on_the_nodes_that_stay() -> None:
    """There is room for its pools, so that hours and cost are told; and no GPU more than they take."""
    (told,) = re.findall(r"^flashvid plan job.yaml --cpus (\d+) --gpus (\d+) ", OPERATIONS.read_text(), re.MULTILINE)
    cpus, gpus = map(int, told)
    decode, gpu = groups("base")["decode"], groups("base")["gpu"]
    assert (cpus, gpus) == (decode["minReplicas"] * int(decode["rayStartParams"]["num-cpus"]), gpu["minReplicas"])
    # As `flashvid plan` does: all GPUs on one node.
    made = plan_pools(job().resources, cpus_per_node=(cpus,), gpus_per_node=(gpus,), encodes=True)
    assert gpus_taken(made) == gpus


def test_decoded_frames_fit_the_nodes_that_stay() -> None:
    """Every decode actor may have a clip, and all these fit three tenths of their nodes: Ray's object store."""
    shipped, decode = job(), groups("base")["decode"]
    made = pools(decode["minReplicas"], groups("base")["gpu"]["minReplicas"])
    assert made.max_decoded_clips >= made["decode"].most
    frame_bytes = 3 * QwenFramePreprocessor.max_pixels
    held = made.max_decoded_clips * shipped.sampling.max_frames * frame_bytes
    memory = gibibytes(decode["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]) * GIB
    assert held <= 0.3 * memory * decode["minReplicas"]


def gibibytes(quantity: str) -> int:
    """Of a quantity in Gi."""
    assert quantity.endswith("Gi")
    return int(quantity.removesuffix("Gi"))


# Of logs, and of what Ray spills.
SPILL_GIB = 20
# What the runbook allows for a model and for one video.
MODEL_GB, VIDEO_GB = 60, 4


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_pod_is_evicted_for_its_disk(overlay: str) -> None:
    """What a pod may write is within what it asks for; nodes have disks for that, as the runbook says."""
    cluster, shipped = ray_cluster(render(FOLDER / overlay)), job(overlay).resources
    pods = {group["groupName"]: group for group in cluster["workerGroupSpecs"]} | {"head": cluster["headGroupSpec"]}
    actors = int(pods["decode"]["rayStartParams"]["num-cpus"])
    staged = {"decode": shipped.staging.max_gb + actors * VIDEO_GB}
    disks = {}
    for name, group in pods.items():
        spec = group["template"]["spec"]
        (container,) = spec["containers"]
        resources = container["resources"]
        assert resources["requests"]["ephemeral-storage"] == resources["limits"]["ephemeral-storage"]
        limit = gibibytes(resources["limits"]["ephemeral-storage"])
        volumes = {
            volume["name"]: gibibytes(volume["emptyDir"]["sizeLimit"])
            for volume in spec["volumes"]
            if "emptyDir" in volume
        }
        assert staged.get(name, 0) + SPILL_GIB <= volumes["scratch"], name
        assert sum(volumes.values()) <= limit, name
        assert (volumes["models"] >= MODEL_GB) == (name != "decode")
        disks[name] = limit * GIB / 1e9
    text = OPERATIONS.read_text()
    assert f"a model of at most {MODEL_GB} GB and for videos of at most {VIDEO_GB} GB each" in text
    told = re.search(r"root disks of (\d+) GB for `decode` and (\d+) GB for the head and `gpu`", text)
    assert told is not None
    # Images take up to 15 GB, and the kubelet keeps a tenth of a disk free.
    assert disks["decode"] + 15 <= 0.9 * int(told[1])
    assert max(disks["head"], disks["gpu"]) + 15 <= 0.9 * int(told[2])


def test_it_fits_the_machines_of_ec2() -> None:
    """The same, with the machines that `ray up` starts at once."""
    nodes = yaml.safe_load((ROOT / "infra" / "aws" / "cluster.yaml").read_text())["available_node_types"]
    decode, gpu = nodes["decode"], nodes["gpu"]
    made = pools(decode["min_workers"], gpu["min_workers"], cpus=decode["resources"]["CPU"])
    assert made["decode"].most == decode["max_workers"] * decode["resources"]["CPU"]
    assert made["encode"].most + made["answer"].most == gpu["max_workers"] * gpu["resources"]["GPU"]


def test_the_runbook_shows_the_same_pools() -> None:
    """For jobs that are handed in with `flashvid submit`."""
    (shown,) = (found for block in blocks(OPERATIONS, "yaml") if "resources" in (found := yaml.safe_load(block)))
    shipped = yaml.safe_load(by_kind(render(FOLDER / "base"))["ConfigMap"]["data"]["job.yaml"])["resources"]
    assert shown["resources"].items() <= shipped.items()
    assert {"encode", "answer", "decode"} <= shown["resources"].keys()
