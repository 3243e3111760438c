"""A report as one HTML page that needs no network.

Answers, paths and error messages are untrusted. The template escapes every value; the script gets its values as JSON in
a data block and writes them as text nodes. A content-security policy allows this one script and this one style sheet,
by their hashes, and pictures inside the page; nothing else is run or loaded, and nothing is sent.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from typing import Any

import jinja2
import yaml

from jobs.report.content import ReportContent
from pipeline.redaction import redacted_values

# The chart's area in report.html: its left and right edge, and its lower edge.
_LEFT, _WIDTH, _BASE = 60, 720, 156


def render(content: ReportContent) -> str:
    """Return the page."""
    assets = files("jobs.report").joinpath("assets")
    style, script, page = (assets.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js", "html"))
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    record = content.record
    versions = ", ".join(f"{name} {version}" for name, version in record["packages"].items())
    settings = {
        "answers fingerprint": record["answers_fingerprint"],
        "tokens fingerprint": record["tokens_fingerprint"],
        "versions": f"Python {record['python']}, {versions}",
    }
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(page).render(
        content=content,
        title=f"flashvid run {record['run_id']}",
        policy=policy,
        style=style,
        script=script,
        summary=_summary(content).items(),
        curve=_curve(content.committed) if len(content.committed) > 2 else None,
        busy=_busy(content.runs[-1]) if content.runs else [],
        settings=settings.items(),
        job=yaml.safe_dump(_job(record["job"]), sort_keys=False, allow_unicode=True),
        extent=_extent(content),
        # "<" could end the data block; its escape is the same JSON.
        clips=json.dumps(content.clips, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
    )


def _job(job: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recorded job without the secrets that earlier versions recorded; questions are the user's own."""
    own = ("questions", "generation") if not isinstance(job.get("questions"), str) else ("generation",)
    return {key: value if key in own else redacted_values(value) for key, value in job.items()}


def _hash(inline: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"


def _summary(content: ReportContent) -> dict[str, str]:
    rows = {
        "started": str(content.record["started"]),
        "answers": f"{content.answers:,}",
        "failures": f"{sum(group.count for group in content.failures):,}",
    }
    if content.runs:
        end = content.runs[-1]
        retention = f"{end['retention_ratio']:.4f} requested"
        if layers := end["visual_token_layers_before"]:
            retention += f", {end['visual_token_layers_after'] / layers:.4f} realised"
        rows |= {
            "clips": f"{end['clips_planned']:,} processed in the last run that ended, of {end['clips_total']:,}",
            "frames decoded": f"{end['frames_decoded']:,}",
            "tokens from the cache": f"{end['cache_hits']:,} clips",
            "visual tokens": f"{end['visual_tokens_before']:,} before, {end['visual_tokens_after']:,} after",
            "retention": retention,
            "wall time": f"{end['seconds']:.1f} s",
            "answers per second": f"{end['answers_new'] / end['seconds']:.2f}" if end["seconds"] else "",
        }
    return rows


def _curve(committed: Sequence[tuple[float, int]]) -> dict[str, Any]:
    """Return the chart of answers committed over time, with a step for every commit."""
    seconds, answers = committed[-1][0] or 1.0, committed[-1][1]
    steps = [(at, done) for (_, before), (at, after) in pairwise(committed) for done in (before, after)]
    points = " ".join(
        f"{_LEFT + (_WIDTH - _LEFT) * at / seconds:.1f},{_BASE - _BASE * 0.95 * done / answers:.1f}"
        for at, done in (committed[0], *steps)
    )
    return {"points": points, "answers": answers, "seconds": seconds}


def _busy(end: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """Return each stage, its share of its actors' time, and the number of these."""
    workers = Counter(worker["stage"] for worker in end["workers"])
    return [
        (stage, min(1.0, seconds / (end["seconds"] * workers[stage])), workers[stage])
        for stage, seconds in end["stage_seconds"].items()
        if workers[stage] and end["seconds"]
    ]


def _extent(content: ReportContent) -> Iterator[str]:
    """Yield sentences on which clips are in the page and which are not."""
    if content.clips_left_out:
        yield f"{content.clips_left_out:,} further clips are not in this file (--max-clips)."
    pictures = content.pictures
    if pictures.by_clip:
        yield f"{len(pictures.by_clip):,} clips have a picture here ({pictures.num_bytes / 1e6:.1f} MB)."
    if pictures.left_out:
        yield f"{pictures.left_out:,} have only their number of tokens (--max-pictures, --max-picture-mb)."
    if content.record["job"].get("cache") is False:
        yield "The run stored no tokens (cache: false), and so no pictures."
