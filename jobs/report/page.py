"""A report as one HTML page that needs no network.

Answers, paths and messages of errors are untrusted. What Python writes is escaped; what the script shows comes as JSON
in a data block and becomes text nodes. A content-security policy allows this one script and this one style sheet, by
their hashes, and pictures inside the page; nothing else is run or loaded, and nothing is sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import pairwise
from typing import Any

import yaml

from jobs.report.content import FailureGroup, ReportContent

_CHART_WIDTH, _CHART_HEIGHT = 720, 180
_LEFT, _BOTTOM = 60, 24


def render(content: ReportContent) -> str:
    """The page."""
    assets = files("jobs.report").joinpath("assets")
    style = assets.joinpath("report.css").read_text(encoding="utf-8")
    script = assets.joinpath("report.js").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"flashvid run {content.record['run_id']}"
    body = "\n".join(
        (
            f"<h1>{escape(title)}</h1>",
            f'<p class="quiet">{escape(content.output)}</p>',
            _summary(content),
            _throughput(content),
            _failures(content.failures),
            _settings(content.record),
            _clips(content),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


def _hash(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def _summary(content: ReportContent) -> str:
    rows: list[tuple[str, str]] = [
        ("started", str(content.record["started"])),
        ("answers", f"{content.answers:,}"),
        ("failures", f"{sum(group.count for group in content.failures):,}"),
    ]
    if content.runs:
        end = content.runs[-1]
        rows += [
            ("clips", f"{end['clips_planned']:,} worked on in the last run that ended, of {end['clips_total']:,}"),
            ("frames decoded", f"{end['frames_decoded']:,}"),
            ("tokens there before", f"{end['cache_hits']:,} clips"),
            ("visual tokens", f"{end['visual_tokens_before']:,} before, {end['visual_tokens_after']:,} after"),
            ("retention", _retention(end)),
            ("wall time", f"{end['seconds']:.1f} s"),
            ("answers per second", f"{end['answers_new'] / end['seconds']:.2f}" if end["seconds"] else ""),
        ]
    return _section("Summary", _table(rows))


def _retention(end: Mapping[str, Any]) -> str:
    asked = f"{end['retention_ratio']:.4f} asked"
    if not end["visual_token_layers_before"]:
        return asked
    return f"{asked}, {end['visual_token_layers_after'] / end['visual_token_layers_before']:.4f} realised"


def _throughput(content: ReportContent) -> str:
    parts = []
    if len(content.committed) > 2:
        parts.append(_curve(content.committed))
    if content.runs and (busy := _busy(content.runs[-1])):
        bars = "".join(
            f'<tr><th scope="row">{escape(stage)}</th><td>{_bar(share)}</td>'
            f"<td>{share:.0%} of the time of {workers} actor{'s' if workers > 1 else ''}</td></tr>"
            for stage, share, workers in busy
        )
        parts.append(f"<h3>How busy each stage was</h3>\n<table>{bars}</table>")
    return _section("Throughput", "\n".join(parts)) if parts else ""


def _curve(committed: Sequence[tuple[float, int]]) -> str:
    """Answers committed over time, a step for every commit."""
    seconds, answers = committed[-1][0] or 1.0, committed[-1][1]
    width, height = _CHART_WIDTH - _LEFT, _CHART_HEIGHT - _BOTTOM
    steps = [(at, done) for (_, before), (at, after) in pairwise(committed) for done in (before, after)]
    points = " ".join(
        f"{_LEFT + width * at / seconds:.1f},{height - height * 0.95 * done / answers:.1f}"
        for at, done in (committed[0], *steps)
    )
    return (
        f'<svg viewBox="0 0 {_CHART_WIDTH} {_CHART_HEIGHT}" role="img" '
        f'aria-label="{answers} answers committed within {seconds:.0f} seconds">'
        f'<line class="axis" x1="{_LEFT}" y1="{height}" x2="{_CHART_WIDTH}" y2="{height}"/>'
        f'<polyline class="curve" points="{points}"/>'
        f'<text x="0" y="12">{answers:,}</text><text x="{_LEFT}" y="{_CHART_HEIGHT - 6}">0 s</text>'
        f'<text x="{_CHART_WIDTH}" y="{_CHART_HEIGHT - 6}" text-anchor="end">{seconds:,.0f} s</text></svg>'
        '<p class="quiet">Answers committed, by the times of the files that hold them.</p>'
    )


def _busy(end: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """Each stage's share of its actors' time, and how many these were."""
    workers = Counter(worker["stage"] for worker in end["workers"])
    return [
        (stage, min(1.0, seconds / (end["seconds"] * workers[stage])), workers[stage])
        for stage, seconds in end["stage_seconds"].items()
        if workers[stage] and end["seconds"]
    ]


def _bar(share: float) -> str:
    return (
        f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" role="img" aria-label="{share:.0%}">'
        f'<rect class="share" width="{100 * share:.1f}" height="8"/></svg>'
    )


def _failures(groups: Sequence[FailureGroup]) -> str:
    if not groups:
        return _section("Failures", "<p>None.</p>")
    rows = "".join(
        f"<tr><td>{group.count:,}</td><td>{escape(group.stage)}</td><td>{escape(group.error_type)}, "
        f"{escape(group.error_kind)}</td><td>{'<br>'.join(escape(message) for message in group.examples)}</td>"
        f"<td>{_retry(group)}</td></tr>"
        for group in groups
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("", "stage", "cause", "for instance", "try again"))
    return _section("Failures", f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")


def _retry(group: FailureGroup) -> str:
    if group.retry is None:
        return "the next run, once the row is right"
    return f'<code>{escape(group.retry)}</code> <button type="button" data-copy>copy</button>'


def _settings(record: Mapping[str, Any]) -> str:
    job = yaml.safe_dump(record["job"], sort_keys=False, allow_unicode=True)
    versions = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    prints = [
        ("answers fingerprint", record["answers_fingerprint"]),
        ("tokens fingerprint", record["tokens_fingerprint"]),
        ("versions", f"Python {record['python']}, {versions}"),
    ]
    details = f"<details><summary>The job as it was resolved</summary><pre>{escape(job)}</pre></details>"
    return _section("Settings", _table(prints) + details)


def _clips(content: ReportContent) -> str:
    # "<" could end the data block; as an escape it is the same JSON.
    data = json.dumps(content.clips, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return _section(
        "Clips and answers",
        f'<p class="quiet">{" ".join(_extent(content))}</p>'
        '<div class="controls"><label for="search">Search</label><input type="search" id="search">'
        '<label><input type="checkbox" id="failed"> with failures only</label>'
        '<label><input type="checkbox" id="overlay" checked> show tokens</label></div>'
        '<p class="quiet">Tokens: framed kept, blue merged into another, dark dropped. '
        "Keys: / to search, left and right for pages.</p>"
        '<div class="controls"><button type="button" id="previous">previous</button>'
        '<button type="button" id="next">next</button><span id="place" role="status"></span></div>'
        '<div id="list"></div>'
        f'<script type="application/json" id="clips">{data}</script>'
        "<noscript><p>The list of clips needs JavaScript; everything above does not.</p></noscript>",
    )


def _extent(content: ReportContent) -> Iterator[str]:
    """Sentences on what of the clips is in the page and what is not."""
    if content.clips_left_out:
        yield f"{content.clips_left_out:,} further clips are not in this file (--max-clips)."
    pictures = content.pictures
    if pictures.by_clip:
        yield f"{len(pictures.by_clip):,} clips have a picture here ({pictures.num_bytes / 1e6:.1f} MB)."
    if pictures.left_out:
        yield f"{pictures.left_out:,} have only their number of tokens (--max-pictures, --max-picture-mb)."
    if content.record["job"].get("cache") is False:
        yield "The run stored no tokens (cache: false), and so no pictures."


def _section(title: str, inner: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{inner}\n</section>"


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>' for name, value in rows)
    return f"<table>{cells}</table>"
