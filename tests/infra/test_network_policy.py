"""infra/kubernetes's network policy: what it lets out, and what the runbook says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "kubernetes" / "base" / "network-policy.yaml"
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def policy(text: str) -> dict[str, Any]:
    """A policy that Kubernetes takes."""
    found: dict[str, Any] = yaml.safe_load(text)
    kubernetes_validate.validate(found, "1.37", strict=True)
    return found


def ports(rule: dict[str, Any]) -> list[int]:
    """The ports of a rule."""
    return [port["port"] for port in rule.get("ports", [])]


def test_names_are_looked_up_wherever_a_cluster_does_it() -> None:
    """In kube-system, or on the node itself."""
    (dns,) = (rule for rule in policy(FILE.read_text())["spec"]["egress"] if 53 in ports(rule))
    assert {port["protocol"] for port in dns["ports"]} == {"UDP", "TCP"}
    peers = [next(iter(peer)) for peer in dns["to"]]
    assert peers == ["namespaceSelector", "ipBlock"]
    assert dns["to"][1]["ipBlock"] == {"cidr": "169.254.20.10/32"}


def test_a_store_on_a_port_of_its_own_needs_the_rule_that_is_written_out() -> None:
    """As the runbook says: 443 is open, others are not, until the comment is none."""
    text = FILE.read_text()
    assert 9000 not in [port for rule in policy(text)["spec"]["egress"] for port in ports(rule)]
    start = text.index("    # - to:")
    written = text[:start] + text[start:].replace("    # ", "    ")
    *others, store = policy(written)["spec"]["egress"]
    assert others == policy(text)["spec"]["egress"]
    assert ports(store) == [9000]
    assert "another port than 443 (MinIO 9000" in OPERATIONS


def test_the_probe_knocks_where_only_some_are_let_in() -> None:
    """From a namespace that no rule names, at a port that answers to the cluster without a token."""
    (probe,) = (line for line in OPERATIONS.splitlines() if line.startswith("kubectl run probe"))
    doors = [rule for rule in policy(FILE.read_text())["spec"]["ingress"] if 8080 in ports(rule)]
    assert ":8080/metrics" in probe
    assert [door["from"][0]["namespaceSelector"]["matchLabels"] for door in doors] == [
        {"kubernetes.io/metadata.name": "monitoring"}
    ]
    assert "--namespace default" in probe
    assert "`enableNetworkPolicy`" in OPERATIONS
