"""Writes prometheus-rule.yaml, beside itself: rules.yaml as Prometheus' operator takes it, word for word."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
_HEAD = """\
# Written by build_rule.py from rules.yaml, for Prometheus' operator: change that one, and run it again.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: flashvid
  namespace: flashvid
  labels:
    # The operator takes what has the labels that its Prometheus selects: docs/operations.md (Watch).
    release: prometheus
spec:
"""


def prometheus_rule() -> str:
    """The manifest; comments of the rules come with them."""
    lines = (FOLDER / "rules.yaml").read_text().splitlines()
    return _HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)


if __name__ == "__main__":
    (FOLDER / "prometheus-rule.yaml").write_text(prometheus_rule())
