"""Kubernetes manifests as `kubectl kustomize` renders them, for the part of it that infra/kubernetes uses."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Manifest = dict[str, Any]
_KNOWN = {"apiVersion", "kind", "resources", "patches"}


def render(folder: Path) -> list[Manifest]:
    """The manifests of a kustomization: its resources with its JSON patches (RFC 6902) applied."""
    kustomization = _load(folder / "kustomization.yaml")[0]
    assert set(kustomization) <= _KNOWN, f"{folder}: render() knows only {sorted(_KNOWN)}"
    manifests: list[Manifest] = []
    for name in kustomization["resources"]:
        path = (folder / name).resolve()
        manifests += render(path) if path.is_dir() else _load(path)
    for patch in kustomization.get("patches", []):
        (operations,) = _load(folder / patch["path"])
        targets = [index for index, manifest in enumerate(manifests) if _matches(manifest, patch["target"])]
        assert targets, f"{folder}: the patch {patch['path']} has no target"
        for index in targets:
            manifests[index] = jsonpatch.apply_patch(manifests[index], operations)
    return manifests


def by_kind(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Manifests by their kind; one of each, without the service accounts."""
    single = [manifest for manifest in manifests if manifest["kind"] != "ServiceAccount"]
    assert len({manifest["kind"] for manifest in single}) == len(single)
    return {manifest["kind"]: manifest for manifest in single}


def service_accounts(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Service accounts by their name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == "ServiceAccount"}


def ray_cluster(manifests: list[Manifest]) -> Manifest:
    """The Ray cluster among manifests, whichever kind holds it."""
    kinds = by_kind(manifests)
    cluster: Manifest = kinds["RayJob"]["spec"]["rayClusterSpec"] if "RayJob" in kinds else kinds["RayCluster"]["spec"]
    return cluster


def _load(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def _matches(manifest: Manifest, target: dict[str, str]) -> bool:
    names = {"kind": manifest["kind"], "name": manifest["metadata"]["name"]}
    return all(fnmatch.fnmatchcase(names[key], pattern) for key, pattern in target.items())
