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
class Panel:
    """One rectangle.

    Attributes:
        title: The question that it answers.
        queries: Expressions by legend; each is a line, or the number.
        unit: Grafana's name of the unit.
        kind: Grafana's name of the kind of panel.
        width: Of 24 columns.
        most: Upper end of the scale, if there is one.
    """

    title: str
    queries: Mapping[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    most: float | None = None


def _per_stage(metric: str, by: str = "stage") -> str:
    return f"sum by ({by}) (rate(ray_flashvid_{metric}{{{_RUN}}}[5m]))"


def _total(metric: str, stage: str = "") -> str:
    where = f'{_RUN}, stage="{stage}"' if stage else _RUN
    return f"sum(ray_flashvid_{metric}{{{where}}})"


def _share(part: str, whole: str) -> str:
    return f"{_total(part)} / {_total(whole)}"


def _number(title: str, expression: str, unit: str = "short", most: float | None = None) -> Panel:
    return Panel(title, {"": expression}, unit, "stat", width=4, most=most)


_SECONDS = "ray_flashvid_clip_seconds"
_DONE, _PLANNED = _total("clips_done"), _total("clips_planned")
_LEFT = f'({_PLANNED} - {_DONE}) / sum(rate({_SECONDS}_count{{{_RUN}, stage="answer"}}[30m]))'
_QUANTILE = f"histogram_quantile(0.95, sum by (le, stage) (rate({_SECONDS}_bucket{{{_RUN}}}[15m])))"
_BUSY = f"avg by (stage) (flashvid:busy_share{{{_RUN}}})"
_IN_HAND = f"sum by (stage) (ray_flashvid_clips_in_hand{{{_RUN}}})"
_FAILED = f"sum by (stage, error_type, error_kind) (ray_flashvid_failures_committed_total{{{_RUN}}})"
_DIED = f"sum by (stage) (ray_flashvid_process_deaths_total{{{_RUN}}})"


def _done(stage: str) -> str:
    return _total("clip_seconds_count", stage)


def _in_hand(stage: str) -> str:
    return _total("clips_in_hand", stage)


_WAITING = {
    "decode": f"{_total('clips_to_encode')} - {_done('decode')} - {_in_hand('decode')}",
    "encode": f"{_total('decoded_clips')} - {_in_hand('encode')}",
    "answer": f"{_done('encode')} + {_total('clips_cached')} - {_done('answer')} - {_in_hand('answer')}",
}
_IN_MEMORY = {"in memory": _total("decoded_clips"), "limit": _total("decoded_clips_limit")}
_TOKENS = {
    "encoded": _per_stage("tokens_encoded_total", "run_id"),
    "kept": _per_stage("tokens_committed_total", "run_id"),
}
_KEPT = {
    "behind compression": _share("visual_tokens_after_total", "visual_tokens_before_total"),
    "over the layers": _share("visual_token_layers_after_total", "visual_token_layers_before_total"),
}
_SHARED = {"not prefilled again": f"1 - {_share('prompt_tokens_prefilled_total', 'prompt_tokens_total')}"}
_BYTES = {"{{stage}} reads": _per_stage("bytes_read_total"), "{{stage}} writes": _per_stage("bytes_written_total")}

ROWS: Mapping[str, tuple[Panel, ...]] = {
    "The run": (
        _number("Clips done", f"{_DONE} / {_PLANNED}", "percentunit", most=1),
        _number("Time left", _LEFT, "s"),
        _number("Answers committed", _total("answers_committed_total")),
        _number("Failures", _total("failures_committed_total")),
        _number("Clips whose tokens were there", _share("clips_cached", "clips_planned"), "percentunit", 1),
        _number("Clips that failed before", _total("clips_tried_again")),
    ),
    "Where the time goes": (
        Panel("Clips a second", {"{{stage}}": _per_stage("clip_seconds_count")}, "cps"),
        Panel("Share of the time that actors are busy", {"{{stage}}": _BUSY}, "percentunit", most=1),
        Panel("Seconds of work on a clip, 95th percentile", {"{{stage}}": _QUANTILE}, "s"),
        Panel("Clips in the hands of a stage", {"{{stage}}": _IN_HAND}),
        Panel("Clips that wait for a stage", _WAITING),
        Panel("Clips whose frames are in memory", _IN_MEMORY),
    ),
    "What is saved": (
        Panel("Visual tokens a second", _TOKENS),
        Panel("Share of the visual tokens that is kept", _KEPT, "percentunit", most=1),
        Panel("Share of the prompts' tokens that questions share", _SHARED, "percentunit", most=1),
    ),
    "What goes wrong": (
        Panel("Failures by type", {"{{stage}}: {{error_type}} ({{error_kind}})": _FAILED}),
        Panel("Clips that lost their process", {"{{stage}}": _DIED}),
        Panel(
            "Requests to storage that were repeated, a second",
            {"{{stage}}": _per_stage("requests_repeated_total")},
            "reqps",
        ),
    ),
    "Bytes": (
        Panel("Frames decoded a second", {"{{run_id}}": _per_stage("frames_decoded_total", "run_id")}),
        Panel("Video files", {"fetched": _per_stage("video_bytes_total", "run_id")}, "Bps"),
        Panel("Output and cache", _BYTES, "Bps"),
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
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
            for index, (legend, expression) in enumerate(panel.queries.items())
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
