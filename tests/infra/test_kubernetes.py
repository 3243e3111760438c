"""infra/kubernetes: valid for Kubernetes and for KubeRay, and as careful as docs/operations.md says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline.config import JobConfig
from tests.support.kustomize import Manifest, by_kind, ray_cluster, render, service_accounts

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "infra" / "kubernetes"
OVERLAYS = ("base", "overlays/spot", "overlays/cluster", "overlays/kueue")
# KubeRay's own schemas, which are not ours to copy: in a folder beside the repository, or wherever the variable says.
_BESIDE = sorted(ROOT.parent.glob("*/kuberay"))
SCHEMAS = Path(os.environ.get("FLASHVID_KUBERAY") or (_BESIDE[0] if _BESIDE else "kuberay"))
KUBERNETES = "1.37"


def pod_templates(overlay: str) -> dict[str, Manifest]:
    """Every pod that comes of an overlay, by what it is for."""
    cluster = ray_cluster(render(FOLDER / overlay))
    found = {"head": cluster["headGroupSpec"]["template"]}
    found |= {group["groupName"]: group["template"] for group in cluster["workerGroupSpecs"]}
    kinds = by_kind(render(FOLDER / overlay))
    if "RayJob" in kinds:
        found["submitter"] = kinds["RayJob"]["spec"]["submitterPodTemplate"]
    return found


def all_pods() -> Iterator[tuple[str, str, Manifest]]:
    """Overlay, what for, template."""
    for overlay in OVERLAYS:
        for name, template in pod_templates(overlay).items():
            yield overlay, name, template


@cache
def schema(kind: str) -> jsonschema.Draft202012Validator:
    """KubeRay's schema of a kind, closed: Kubernetes drops unknown fields in silence, a misspelt one with them."""
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not in {SCHEMAS}")
    crd = yaml.load(path.read_text(), yaml.CSafeLoader)
    (version,) = (version for version in crd["spec"]["versions"] if version["name"] == "v1")
    found = version["schema"]["openAPIV3Schema"]
    _close(found)
    return jsonschema.Draft202012Validator(found)


def _close(node: dict[str, Any]) -> None:
    if "properties" in node and not node.get("x-kubernetes-preserve-unknown-fields"):
        node["additionalProperties"] = False
    for inner in node.get("properties", {}).values():
        _close(inner)
    for name in ("items", "additionalProperties"):
        if isinstance(node.get(name), dict):
            _close(node[name])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_kinds_are_valid(overlay: str) -> None:
    """Strictly, pods inside of Ray's kinds included."""
    for manifest in render(FOLDER / overlay):
        if not manifest["apiVersion"].startswith("ray.io/"):
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)
    for template in pod_templates(overlay).values():
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", **template}, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ray_kinds_are_valid(overlay: str) -> None:
    """By KubeRay's own schemas; a misspelt field is found."""
    kind = "RayCluster" if overlay.endswith("cluster") else "RayJob"
    manifest = by_kind(render(FOLDER / overlay))[kind]
    schema(kind).validate(manifest)
    with pytest.raises(jsonschema.ValidationError, match="suspended"):
        schema(kind).validate({**manifest, "spec": {**manifest["spec"], "suspended": True}})


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_rendered_as_kubectl_renders_it(overlay: str) -> None:
    """The tests see what an operator applies."""
    done = subprocess.run(["kubectl", "kustomize", FOLDER / overlay], capture_output=True, text=True, check=True)  # noqa: S607
    theirs = list(yaml.safe_load_all(done.stdout))
    assert by_kind(theirs) == by_kind(render(FOLDER / overlay))
    assert service_accounts(theirs) == service_accounts(render(FOLDER / overlay))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_cluster_reaches_ray(overlay: str) -> None:
    """Token authentication, no way in from outside, a policy that covers every pod."""
    manifests = render(FOLDER / overlay)
    cluster = ray_cluster(render(FOLDER / overlay))
    assert cluster["authOptions"] == {"mode": "token", "secretName": "flashvid-ray-token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "enableIngress" not in cluster["headGroupSpec"]
    assert not {manifest["kind"] for manifest in manifests} & {"Ingress", "Service", "Secret"}
    policy = by_kind(manifests)["NetworkPolicy"]
    assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    selected = policy["spec"]["podSelector"]["matchLabels"]
    for name, template in pod_templates(overlay).items():
        assert selected.items() <= template["metadata"]["labels"].items(), name
    # From other namespaces: the job API for the operator, metrics for Prometheus, nothing for anybody.
    doors = [rule for rule in policy["spec"]["ingress"] if "ports" in rule]
    assert [[port["port"] for port in rule["ports"]] for rule in doors] == [[8265], [8080]]
    assert all("namespaceSelector" in peer for rule in doors for peer in rule["from"])
    metrics = {group["rayStartParams"]["metrics-export-port"] for group in _groups(cluster)}
    assert metrics == {"8080"}


def test_pods_have_no_rights() -> None:
    """Not root, no capabilities, and only the head speaks to Kubernetes (its autoscaler does)."""
    for overlay, name, template in all_pods():
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["serviceAccountName"] in service_accounts(render(FOLDER / overlay))
        assert spec.get("automountServiceAccountToken", True) == (name == "head")
        for container in spec["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert not any("value" in variable for variable in container.get("env", []))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_pods_that_commit_may_write_to_storage(overlay: str) -> None:
    """Each account has a role of its own, and the runbook says what each role may do."""
    accounts = service_accounts(render(FOLDER / overlay))
    roles = {name: one["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] for name, one in accounts.items()}
    assert len(set(roles.values())) == len(roles) == 2
    used = {name: template["spec"]["serviceAccountName"] for name, template in pod_templates(overlay).items()}
    assert {name for name, account in used.items() if account == "flashvid"} == {"head", "gpu"}
    assert {account for name, account in used.items() if name in {"decode", "submitter"}} == {"flashvid-read"}
    text = (ROOT / "docs" / "operations.md").read_text()
    rights = {}
    for account, role in roles.items():
        (row,) = re.findall(rf"^\| `{account}` \|.*$", text, re.MULTILINE)
        assert f"`{role.rpartition('/')[2]}`" in row
        rights[account] = set(re.findall(r"`s3:(\w+)`", row))
    assert rights["flashvid-read"] == {"ListBucket", "GetObject"}
    assert {"PutObject", "DeleteObject"} < rights["flashvid"]


def test_root_file_systems_are_read_only() -> None:
    """In every container; /tmp, the home and the models are volumes with a bound of their own."""
    stages = (ROOT / "infra" / "docker" / "Dockerfile").read_text()
    (home,) = re.findall(r"^ENV HOME=(\S+)", stages, re.MULTILINE)
    (models,) = re.findall(r"HF_HOME=(\S+)", stages)
    scratch = {"/tmp", home}  # noqa: S108 - a path in a container
    for overlay, name, template in all_pods():
        spec = template["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        (container,) = spec["containers"]
        expected = [(container, scratch if name == "submitter" else scratch | {models})]
        if name == "head":
            # KubeRay puts the autoscaler into the head's pod, with these options.
            expected.append((ray_cluster(render(FOLDER / overlay))["autoscalerOptions"], scratch))
        for container, paths in expected:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
            assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == paths, (overlay, name)
            assert all("sizeLimit" in volumes[mounts[path]["name"]]["emptyDir"] for path in paths)
            # Of one volume, they are folders of their own.
            assert len({(mount["name"], mount.get("subPath")) for mount in mounts.values()}) == len(mounts)


def test_resources_and_bounds() -> None:
    """The head does no work, GPUs are in one group, each group has bounds of its own, memory is never overcommitted."""
    for overlay in OVERLAYS:
        cluster = ray_cluster(render(FOLDER / overlay))
        assert cluster["enableInTreeAutoscaling"] is True
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        bounds = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
        assert bounds.keys() == {"decode", "gpu"}
        for group in bounds.values():
            # An idle node is not taken away while a run plans, which would find none.
            assert 0 < group["minReplicas"] == group["replicas"] < group["maxReplicas"]
        assert bounds["gpu"]["maxReplicas"] < bounds["decode"]["maxReplicas"]
        for name, template in pod_templates(overlay).items():
            (container,) = template["spec"]["containers"]
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert (requests.get("nvidia.com/gpu"), limits.get("nvidia.com/gpu")) == (
                ("1", "1") if name == "gpu" else (None, None)
            )
            if name != "submitter":
                assert requests == limits
        # What Ray deals out is what Kubernetes gave.
        decode = bounds["decode"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert bounds["decode"]["rayStartParams"]["num-cpus"] == decode["cpu"]
        assert bounds["gpu"]["rayStartParams"]["num-gpus"] == "1"


def test_versions_are_those_of_this_project() -> None:
    """Images by our version, Ray by the constraints; CUDA where the GPUs are."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for overlay, name, template in all_pods():
        flavour = "cuda" if name == "gpu" else "cpu"
        assert template["spec"]["containers"][0]["image"].endswith(f"/flashvid:{version}-{flavour}")
        assert ray_cluster(render(FOLDER / overlay))["rayVersion"] == pinned["ray"]


def test_the_job_file_is_a_job() -> None:
    """Where the entrypoint looks for it, and one that this version takes."""
    kinds = by_kind(render(FOLDER / "base"))
    job = JobConfig.model_validate(yaml.safe_load(kinds["ConfigMap"]["data"]["job.yaml"]))
    assert all(path.startswith("s3://") for path in (job.videos, str(job.questions), job.output, job.tokens_root))
    head = kinds["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (volume["name"] for volume in head["volumes"] if volume.get("configMap") == {"name": "flashvid-job"})
    (mount,) = (mount for mount in head["containers"][0]["volumeMounts"] if mount["name"] == volume)
    assert kinds["RayJob"]["spec"]["entrypoint"] == f"flashvid run {mount['mountPath']}/job.yaml"


def test_runbooks_name_what_is_there() -> None:
    """The names in every `kubectl` line of docs/operations.md are those of the manifests and of KubeRay's schema."""
    kinds = by_kind(render(FOLDER / "overlays/spot"))
    job = kinds["RayJob"]
    cluster = job["spec"]["rayClusterSpec"]
    text = (ROOT / "docs" / "operations.md").read_text()
    lines = re.findall(r"kubectl (?:-n|apply|delete|exec|port-forward|patch|get|logs)[^`\n]*", text)
    assert len(lines) >= 9
    assert all(
        f"-n {job['metadata']['namespace']} " in line
        for line in lines
        if not re.match(r"kubectl (apply|delete) -|kubectl get prometheus -A ", line)
    )
    assert {name for line in lines for name in re.findall(r" (?:get|delete|patch) rayjob (\S+)", line)} == {
        job["metadata"]["name"]
    }
    (secret, key) = re.findall(r"create secret generic (\S+) --from-literal=(\w+)=", text)[0]
    assert (secret, key) == (cluster["authOptions"]["secretName"], "auth_token")
    assert text.index("base/namespace.yaml") < text.index("create secret") < text.index("kubectl apply -k")
    containers = {container["name"] for container in cluster["headGroupSpec"]["template"]["spec"]["containers"]}
    assert set(re.findall(r" -c (\S+) -- ", text)) == containers
    components = set(re.findall(r"-l app\.kubernetes\.io/component=(\w+)", text))
    assert components <= {group["groupName"] for group in cluster["workerGroupSpecs"]}
    for path in re.findall(r"kubectl \w+ -[fk] (\S+)", text):
        assert (ROOT / path.strip("`,.")).exists(), path
    # The namespaces that the network policy lets in.
    doors = {
        peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for rule in kinds["NetworkPolicy"]["spec"]["ingress"]
        for peer in rule["from"]
        if "namespaceSelector" in peer
    }
    assert doors == {"kuberay-operator", "monitoring"}
    assert all(f"`{door}`" in text for door in doors)
    for name in re.findall(r"jsonpath={\.status\.(\w+)}", text):
        assert name in schema("RayJob").schema["properties"]["status"]["properties"]


def test_spot_workers_and_a_head_that_stays() -> None:
    """Workers only on spot, the head never; no grace longer than a cloud grants; other tolerations stay."""
    pods = pod_templates("overlays/spot")
    for name in ("decode", "gpu"):
        spec = pods[name]["spec"]
        assert spec["terminationGracePeriodSeconds"] <= 25
        assert {"spot", "cloud.google.com/gke-spot"} <= {toleration["key"] for toleration in spec["tolerations"]}
        assert all(expression["operator"] == "In" for term in _terms(spec) for expression in term)
        assert len(_terms(spec)) == 3  # any of them
    assert "nvidia.com/gpu" in {toleration["key"] for toleration in pods["gpu"]["spec"]["tolerations"]}
    (of_head,) = _terms(pods["head"]["spec"])
    assert {expression["operator"] for expression in of_head} == {"NotIn"}
    assert {expression["key"] for expression in of_head} == {
        expression["key"] for term in _terms(pods["gpu"]["spec"]) for expression in term
    }
    assert "affinity" not in pod_templates("base")["gpu"]["spec"]


def test_a_job_for_kueue_waits_to_be_admitted() -> None:
    """Queue, suspended; nothing else differs."""
    ours, base = (by_kind(render(FOLDER / overlay))["RayJob"] for overlay in ("overlays/kueue", "base"))
    assert ours["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "flashvid"
    assert (ours["spec"]["suspend"], base["spec"]["suspend"]) == (True, False)
    assert ours["spec"]["rayClusterSpec"] == base["spec"]["rayClusterSpec"]


def test_the_cluster_that_stays_has_the_same_nodes() -> None:
    """As the job's own."""
    assert_same_nodes(FOLDER / "overlays/cluster", FOLDER / "base")


def test_the_cluster_that_stays_over_spot_machines(tmp_path: Path) -> None:
    """As its comment says: one word changed."""
    folder = shutil.copytree(FOLDER, tmp_path / "kubernetes")
    kustomization = folder / "overlays/cluster/kustomization.yaml"
    text = kustomization.read_text()
    assert text.count("  - ../../base\n") == 1
    kustomization.write_text(text.replace("  - ../../base\n", "  - ../spot\n"))
    assert_same_nodes(kustomization.parent, FOLDER / "overlays/spot")
    (cluster,) = (manifest for manifest in render(kustomization.parent) if manifest["kind"] == "RayCluster")
    schema("RayCluster").validate(cluster)


def assert_same_nodes(of_cluster: Path, of_job: Path) -> None:
    """The cluster that an overlay makes stay is the one that another makes for a job."""
    cluster, job = by_kind(render(of_cluster))["RayCluster"], by_kind(render(of_job))["RayJob"]
    assert cluster["spec"] == {**job["spec"]["rayClusterSpec"], "suspend": False}
    assert cluster["metadata"] == job["metadata"]


def _groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _terms(spec: dict[str, Any]) -> list[list[dict[str, Any]]]:
    required = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return [term["matchExpressions"] for term in required["nodeSelectorTerms"]]
