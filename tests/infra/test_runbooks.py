"""docs/operations.md beside infra/kubernetes: the names that an operator types are those that are there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from tests.support.kustomize import by_kind, ray_cluster, render
from tests.support.pages import blocks

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes" / "overlays"
PAGE = ROOT / "docs" / "operations.md"


def section(heading: str) -> str:
    """The text below a heading, up to the next one."""
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(rf"^### {heading}\n(.*?)(?=^##)", text, re.DOTALL | re.MULTILINE)
    return str(found)


def test_a_cluster_that_stays_is_started_reached_and_ended() -> None:
    """Its own name, the service that KubeRay makes for its head, the key of its token's secret."""
    shown, cluster = section("A cluster that stays"), by_kind(render(FOLDER / "cluster"))["RayCluster"]
    name, namespace = cluster["metadata"]["name"], cluster["metadata"]["namespace"]
    assert f"kubectl -n {namespace} wait raycluster {name} " in shown
    assert f"kubectl -n {namespace} port-forward service/{name}-head-svc 8265\n" in shown
    secret = cluster["spec"]["authOptions"]["secretName"]
    assert f"kubectl -n {namespace} get secret {secret} -o jsonpath={{.data.auth_token}} | base64 -d" in shown
    assert "flashvid submit job.yaml --address http://127.0.0.1:8265 --wait\n" in shown
    assert f"patch raycluster {name} " in shown
    assert "suspend" in cluster["spec"]
    # What stays is what the text says that it costs.
    assert all(group["minReplicas"] == group["replicas"] > 0 for group in cluster["spec"]["workerGroupSpecs"])


def test_the_queue_that_the_job_waits_in() -> None:
    """Name and namespace; what the cluster queue has to cover is what the pods ask for."""
    manifests = render(FOLDER / "kueue")
    job = by_kind(manifests)["RayJob"]
    (queue,) = (yaml.safe_load(block) for block in blocks(PAGE, "yaml") if "LocalQueue" in block)
    assert queue["metadata"]["name"] == job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"]
    assert queue["metadata"]["namespace"] == job["metadata"]["namespace"]
    cluster = ray_cluster(manifests)
    asked = {
        resource
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
        for container in group["template"]["spec"]["containers"]
        for resource in container["resources"]["requests"]
    }
    (covered,) = re.findall(r"must cover (.+?), for", section("In a Kueue queue"), re.DOTALL)
    assert set(re.findall(r"`([^`]+)`", covered)) == asked


def test_tries_are_few_and_their_cost_is_said() -> None:
    """Each is a cluster with GPUs, also for a run that is refused each time."""
    tries = by_kind(render(FOLDER / "spot"))["RayJob"]["spec"]["backoffLimit"]
    assert 0 < tries <= 2
    assert f"up to `backoffLimit`\ntimes ({tries}): each is a new cluster" in PAGE.read_text(encoding="utf-8")
