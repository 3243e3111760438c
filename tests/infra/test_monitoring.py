"""infra/prometheus and infra/grafana: rules that fire when they should, over metrics that a run really has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.run.metrics import series_names
from tests.support.kustomize import by_kind, render

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "infra" / "prometheus"
GRAFANA = ROOT / "infra" / "grafana"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: package prometheus)"
)


def rules() -> list[dict[str, Any]]:
    """Every rule."""
    return [rule for group in _load(PROMETHEUS / "rules.yaml")["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard that is committed, without the rows' titles."""
    found = json.loads((GRAFANA / "dashboard.json").read_text())["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def queries() -> list[str]:
    """What the dashboard asks Prometheus."""
    return [target["expr"] for panel in panels() for target in panel["targets"]]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run it in the rules' folder."""
    return subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)  # noqa: S607


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [("check", "rules", "rules.yaml"), ("check", "config", "prometheus.yaml"), ("test", "rules", "rules.test.yaml")],
    ids=" ".join,
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    """Valid; and each alert fires in the situations of rules.test.yaml, and in no other."""
    done = promtool(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    """Once where it fires, and what to do then is written."""
    tried = {
        case["alertname"]
        for test in _load(PROMETHEUS / "rules.test.yaml")["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    assert tried == alerts.keys()
    headings = re.findall(r"^#+ (.+)$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    anchors = {f"docs/operations.md#{heading.lower().replace(' ', '-')}" for heading in headings}
    assert {rule["annotations"]["runbook"] for rule in alerts.values()} <= anchors


def test_only_metrics_that_a_run_has() -> None:
    """In rules, in their tests and in the dashboard; that a run exports them: tests/infra/test_cluster.py."""
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    tested = [
        series["series"] for test in _load(PROMETHEUS / "rules.test.yaml")["tests"] for series in test["input_series"]
    ]
    used = {name for text in [*(rule["expr"] for rule in rules()), *queries(), *tested] for name in _names(text)}
    assert used <= series_names() | recorded
    assert len(used & series_names()) > 20


def test_every_panel_reads_the_chosen_runs_of_the_chosen_source() -> None:
    """No panel is pinned to one Prometheus or shows other runs than those chosen at the top of the page."""
    for panel in panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    for query in queries():
        selectors = re.findall(r"(?:ray_\w+|flashvid:\w+)(\{[^}]*\})?", query)
        assert all('run_id=~"$run_id"' in selector for selector in selectors), query


def test_the_operator_gets_the_same_rules() -> None:
    """The operator finds both manifests by the same labels."""
    rule, monitor = _load(PROMETHEUS / "prometheus-rule.yaml"), _load(PROMETHEUS / "pod-monitor.yaml")
    assert rule["spec"] == _load(PROMETHEUS / "rules.yaml")
    assert rule["metadata"] == monitor["metadata"]
    assert rule["metadata"]["labels"] == {"release": "prometheus"}


def test_panels_do_not_overlap() -> None:
    """Each place of the grid belongs to one."""
    seen: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & seen, panel["title"]
        assert all(x < 24 for x, _ in cells)
        seen |= cells


@needs_promtool
def test_prometheus_understands_every_query(tmp_path: Path) -> None:
    """As if each were a rule."""
    made = [
        {"record": f"query_{index}", "expr": expression.replace("$run_id", ".*")}
        for index, expression in enumerate(queries())
    ]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": made}]}))
    done = promtool("check", "rules", path)
    assert f"{len(made)} rules found" in done.stdout, done.stdout + done.stderr


def test_prometheus_finds_the_pods() -> None:
    """By the labels and the port that infra/kubernetes gives them."""
    monitor = _load(PROMETHEUS / "pod-monitor.yaml")
    cluster = by_kind(render(ROOT / "infra" / "kubernetes" / "base"))["RayJob"]["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert str(ports[endpoint["port"]]) == group["rayStartParams"]["metrics-export-port"]


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _names(text: str) -> set[str]:
    return set(re.findall(r"\b(?:ray_\w+|flashvid:\w+)", text))
