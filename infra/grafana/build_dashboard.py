"""Write dashboard.json, for Grafana's import page: `python infra/grafana/build_dashboard.py`.

A dashboard is a list of panels, and a panel little more than a title and a query: that is what is written here. Names
of metrics are those of pipeline/run/metrics.py, `flashvid:...` those of infra/prometheus/rules.yaml; tests hold them
to it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).with_name("dashboard.json")
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_COLUMNS, _HEIGHT = 24, 8
# Of the run, or the runs, chosen at the top.
_RUN = 'run_id=~"$run_id"'


@dataclass(frozen=True)
class Query:
    """One line, or one number, of a panel."""

    expression: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One rectangle.

    Attributes:
        title: What it answers.
        queries: Its lines.
        unit: Grafana's name of the unit.
        kind: Grafana's name of the kind of panel.
        width: Of 24 columns.
        most: Upper end of the scale, where there is one.
    """

    title: str
    queries: tuple[Query, ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    most: float | None = None


def _per_stage(metric: str, by: str = "stage") -> str:
    return f"sum by ({by}) (rate({metric}{{{_RUN}}}[5m]))"


def _total(metric: str) -> str:
    return f"sum({metric}{{{_RUN}}})"


def _each(metric: str, stage: str) -> str:
    return f'sum({metric}{{{_RUN}, stage="{stage}"}})'


def _number(title: str, expression: str, unit: str = "short", most: float | None = None) -> Panel:
    return Panel(title, (Query(expression, ""),), unit, "stat", width=4, most=most)


_SECONDS = "ray_flashvid_clip_seconds"
_DONE, _PLANNED = _total("ray_flashvid_clips_done"), _total("ray_flashvid_clips_planned")
_QUANTILE = f"histogram_quantile(0.95, sum by (le, stage) (rate({_SECONDS}_bucket{{{_RUN}}}[15m])))"

ROWS: Mapping[str, tuple[Panel, ...]] = {
    "The run": (
        _number("Clips done", f"{_DONE} / {_PLANNED}", "percentunit", most=1),
        _number(
            "Time left", f'({_PLANNED} - {_DONE}) / sum(rate({_SECONDS}_count{{{_RUN}, stage="answer"}}[30m]))', "s"
        ),
        _number("Answers committed", _total("ray_flashvid_answers_committed_total")),
        _number("Failures", _total("ray_flashvid_failures_committed_total")),
        _number(
            "Clips whose tokens were there", f"{_total('ray_flashvid_clips_cached')} / {_PLANNED}", "percentunit", 1
        ),
        _number("Clips that failed before", _total("ray_flashvid_clips_tried_again")),
    ),
    "Where the time goes": (
        Panel("Clips a second", (Query(_per_stage(f"{_SECONDS}_count"), "{{stage}}"),), "cps"),
        Panel(
            "Share of the time that actors are busy",
            (Query(f"avg by (stage) (flashvid:busy_share{{{_RUN}}})", "{{stage}}"),),
            "percentunit",
            most=1,
        ),
        Panel("Seconds of work on a clip, 95th percentile", (Query(_QUANTILE, "{{stage}}"),), "s"),
        Panel(
            "Clips in the hands of a stage",
            (Query(f"sum by (stage) (ray_flashvid_clips_in_hand{{{_RUN}}})", "{{stage}}"),),
        ),
        Panel(
            "Clips that wait for a stage",
            (
                Query(
                    f"{_total('ray_flashvid_clips_to_encode')} - {_each(f'{_SECONDS}_count', 'decode')}"
                    f" - {_each('ray_flashvid_clips_in_hand', 'decode')}",
                    "decode",
                ),
                Query(
                    f"{_total('ray_flashvid_decoded_clips')} - {_each('ray_flashvid_clips_in_hand', 'encode')}",
                    "encode",
                ),
                Query(
                    f"{_each(f'{_SECONDS}_count', 'encode')} + {_total('ray_flashvid_clips_cached')}"
                    f" - {_each(f'{_SECONDS}_count', 'answer')} - {_each('ray_flashvid_clips_in_hand', 'answer')}",
                    "answer",
                ),
            ),
        ),
        Panel(
            "Clips whose frames are in memory",
            (
                Query(_total("ray_flashvid_decoded_clips"), "in memory"),
                Query(_total("ray_flashvid_decoded_clips_limit"), "limit"),
            ),
        ),
    ),
    "What is saved": (
        Panel(
            "Visual tokens a second",
            (
                Query(_per_stage("ray_flashvid_tokens_encoded_total", "run_id"), "encoded"),
                Query(_per_stage("ray_flashvid_tokens_committed_total", "run_id"), "kept"),
            ),
        ),
        Panel(
            "Share of the visual tokens that is kept",
            (
                Query(
                    f"{_total('ray_flashvid_visual_tokens_after_total')}"
                    f" / {_total('ray_flashvid_visual_tokens_before_total')}",
                    "behind compression",
                ),
                Query(
                    f"{_total('ray_flashvid_visual_token_layers_after_total')}"
                    f" / {_total('ray_flashvid_visual_token_layers_before_total')}",
                    "over the layers",
                ),
            ),
            "percentunit",
            most=1,
        ),
        Panel(
            "Share of the prompts' tokens that questions share",
            (
                Query(
                    f"1 - {_total('ray_flashvid_prompt_tokens_prefilled_total')}"
                    f" / {_total('ray_flashvid_prompt_tokens_total')}",
                    "not prefilled again",
                ),
            ),
            "percentunit",
            most=1,
        ),
    ),
    "What goes wrong": (
        Panel(
            "Failures by type",
            (
                Query(
                    f"sum by (stage, error_type, error_kind) (ray_flashvid_failures_committed_total{{{_RUN}}})",
                    "{{stage}}: {{error_type}} ({{error_kind}})",
                ),
            ),
        ),
        Panel(
            "Clips that lost their process",
            (Query(f"sum by (stage) (ray_flashvid_process_deaths_total{{{_RUN}}})", "{{stage}}"),),
        ),
        Panel(
            "Requests to storage that were repeated, a second",
            (Query(_per_stage("ray_flashvid_requests_repeated_total"), "{{stage}}"),),
            "reqps",
        ),
    ),
    "Bytes": (
        Panel(
            "Frames decoded a second", (Query(_per_stage("ray_flashvid_frames_decoded_total", "run_id"), "{{run_id}}"),)
        ),
        Panel("Video files", (Query(_per_stage("ray_flashvid_video_bytes_total", "run_id"), "fetched"),), "Bps"),
        Panel(
            "Output and cache",
            (
                Query(_per_stage("ray_flashvid_bytes_read_total"), "{{stage}} reads"),
                Query(_per_stage("ray_flashvid_bytes_written_total"), "{{stage}} writes"),
            ),
            "Bps",
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    return {
        "uid": "flashvid",
        "title": "flashvid",
        "tags": ["flashvid", "ray"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": [_data_sources(), _runs()]},
        "panels": list(_placed(ROWS)),
    }


def _placed(rows: Mapping[str, Sequence[Panel]]) -> Iterator[dict[str, Any]]:
    """Panels from left to right, row by row."""
    number = top = 0
    for title, panels in rows.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "panels": [],
            "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
        }
        top, left = top + 1, 0
        for panel in panels:
            height = _HEIGHT // 2 if panel.kind == "stat" else _HEIGHT
            if left + panel.width > _COLUMNS:
                top, left = top + height, 0
            number += 1
            yield _panel(panel, number, {"x": left, "y": top, "w": panel.width, "h": height})
            left += panel.width
        top += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    scale = {"unit": panel.unit, "min": 0} | ({} if panel.most is None else {"max": panel.most})
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": _DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": scale, "overrides": []},
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}} if panel.kind == "stat" else {},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": query.expression, "legendFormat": query.legend}
            for index, query in enumerate(panel.queries)
        ],
    }


def _data_sources() -> dict[str, Any]:
    return {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}


def _runs() -> dict[str, Any]:
    return {
        "name": "run_id",
        "label": "Run",
        "type": "query",
        "datasource": _DATASOURCE,
        "query": {"query": "label_values(ray_flashvid_clips_planned, run_id)", "refId": "runs"},
        # The latest one first: a run's id begins with the time it started.
        "sort": 2,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
    }


if __name__ == "__main__":
    OUTPUT.write_text(json.dumps(dashboard(), indent=1) + "\n")
