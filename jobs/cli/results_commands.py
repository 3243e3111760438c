"""Commands for the answers of a run: evaluate, report, inspect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from jobs.cli.options import AsJson, Fingerprint, Output, StorageOptions, open_job, open_storage
from jobs.cli.printing import print_json, print_result, print_table, print_text, write_file

if TYPE_CHECKING:
    from jobs.datasets.published import PublishedNumber
    from jobs.evaluation.accuracy import Accuracy, Comparison, Evaluation, Interval, Item
    from pipeline.config import JobConfig
    from pipeline.store.results import Results

Unanswered = Literal["wrong", "left-out"]


def evaluate(
    output: Output,
    by: Annotated[
        list[str] | None, typer.Option(help="split by 'category' or by a column of the videos table; may be repeated")
    ] = None,
    benchmark: Annotated[str | None, typer.Option(help="count as it does, and show its published numbers")] = None,
    against: Annotated[str | None, typer.Option(help="another output to compare with, question by question")] = None,
    unanswered: Annotated[Unanswered, typer.Option(help="how a question without an answer counts")] = "wrong",
    answered_only: Annotated[bool, typer.Option("--answered-only", help="read no tables, use no categories")] = False,
    job: Annotated[Path | None, typer.Option(help="a job file with moved or corrected tables to use")] = None,
    letters: Annotated[
        str | None, typer.Option(help="how to find the option: ranked, ranked-of-four, earliest, first, any-case")
    ] = None,
    fingerprint: Fingerprint = None,
    against_fingerprint: Annotated[str | None, typer.Option(help="the fingerprint of --against")] = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's answers against the expected ones: accuracy with its 95 % interval, overall and by category.

    A failed question has no answer. Questions without an answer count as wrong, or are left out; their number is shown.

    Example: flashvid evaluate output --by category --against output-full --json
    """
    from flashvid.errors import ConfigurationError
    from jobs.datasets import benchmark_named
    from jobs.datasets.published import published_numbers
    from jobs.evaluation import accuracy
    from jobs.evaluation.items import all_items, answered_items
    from jobs.evaluation.letters import LETTER_RULES
    from pipeline.store.results import Results

    asked = benchmark_named(benchmark) if benchmark else None
    rule_name = letters or (asked.letters if asked else "ranked")
    if rule_name not in LETTER_RULES:
        raise ConfigurationError(f"--letters {rule_name} is not one of {', '.join(LETTER_RULES)}")
    categories = by or (list(asked.categories) if asked and not answered_only else [])
    if answered_only and categories:
        raise ConfigurationError("--answered-only reads no tables, which hold the categories: leave out --by or it")

    def items_of(url: str, which: str | None) -> tuple[Results, list[Item]]:
        results = Results(open_storage(url, storage_option), which)
        rule = LETTER_RULES[rule_name]
        if answered_only:
            return results, answered_items(results, rule)
        return results, all_items(results, open_job(job) if job else _recorded_job(results), categories, rule)

    results, items = items_of(output, fingerprint)
    found = accuracy.evaluate(items, unanswered)
    comparison = accuracy.compare(items, items_of(against, against_fingerprint)[1], unanswered) if against else None
    published = published_numbers(asked.name, results.record["job"]) if asked else ()
    if as_json:
        described = {"output": output, "fingerprint": results.fingerprint, "letters": rule_name, **asdict(found)}
        compared = {"output": against, **asdict(comparison)} if comparison else None
        print_json({**described, "against": compared, "published": [asdict(number) for number in published]})
        return
    print_table(("", "questions", "right", "accuracy %", "95 % interval"), _rows(found, published))
    for line in _remarks(found):
        print_text(line)
    if comparison is not None:
        print_text(_compared(comparison, str(against)))


def _recorded_job(results: Results) -> JobConfig:
    """Return the job of the run. Raises ConfigurationError if the URL of one of its tables is not recorded in full."""
    from flashvid.errors import ConfigurationError
    from pipeline.redaction import is_redacted

    job = results.job
    for key, url in (("videos", job.videos), ("questions", job.questions)):
        if isinstance(url, str) and is_redacted(url):
            raise ConfigurationError(
                f"the table {key} was read from a URL with a secret, which runs/ does not record: {url}; give the job "
                "file with --job, or use --answered-only"
            )
    return job


def _rows(found: Evaluation, published: Sequence[PublishedNumber]) -> Iterator[tuple[str, ...]]:
    def row(name: str, accuracy: Accuracy) -> tuple[str, ...]:
        return name, f"{accuracy.questions:,}", f"{accuracy.right:,}", *_percent(accuracy.accuracy)

    yield row("all", found.overall)
    for name, values in found.by_category.items():
        yield from (row(f"{name}: {value}", accuracy) for value, accuracy in values.items())
        mean = found.mean_over[name]
        yield f"mean over {name}", "", "", "" if mean is None else f"{100 * mean:.1f}", ""
    for number in published:
        yield number.shown, "", "", f"{number.accuracy:.1f}", ""


def _percent(interval: Interval | None) -> tuple[str, str]:
    if interval is None:
        return "", ""
    return f"{100 * interval.value:.1f}", f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def _remarks(found: Evaluation) -> Iterator[str]:
    if found.unanswered:
        how = "count as wrong" if found.unanswered_count_as == "wrong" else "are left out of every number"
        yield f"{found.unanswered:,} questions have no answer and {how}"
    if found.unread:
        yield f"{found.unread:,} answers do not say which option they mean, and count as wrong"


def _compared(found: Comparison, against: str) -> str:
    if found.difference is None or found.accuracy is None or found.other_accuracy is None:
        return f"no question counts both here and in {against}"
    value, interval = _percent(found.difference)
    return (
        f"against {against}, on {found.questions:,} questions: {100 * found.accuracy:.1f} % and "
        f"{100 * found.other_accuracy:.1f} %, a difference of {value} points (95 %: {interval}); "
        f"{found.only_first:,} right only here, {found.only_other:,} only there"
    )


def report(
    output: Output,
    to: Annotated[Path, typer.Option(help="the file to write; an existing one is replaced")] = Path("report.html"),
    fingerprint: Fingerprint = None,
    cache: Annotated[str | None, typer.Option(help="where the tokens are; default: where the run put them")] = None,
    max_clips: Annotated[int, typer.Option(min=0, help="clips in the file")] = 20_000,
    max_pictures: Annotated[int, typer.Option(min=0, help="clips with a picture, 5 kB each")] = 1_000,
    max_picture_mb: Annotated[float, typer.Option(min=0, help="megabytes of pictures in the file")] = 10.0,
    storage_option: StorageOptions = None,
) -> None:
    """Write a report that opens in any browser, without a network: summary, throughput, failures, clips with answers.

    Example: flashvid report output --to report.html
    """
    from jobs.report.content import collect
    from jobs.report.page import render

    content = collect(
        open_storage(output, storage_option),
        None if cache is None else open_storage(cache, storage_option),
        fingerprint,
        max_clips=max_clips,
        max_pictures=max_pictures,
        max_picture_bytes=max_picture_mb * 1e6,
    )
    page = render(content).encode()
    write_file(to, page, replace=True)
    print_text(f"{to}: {len(content.clips)} clips, {content.answers} answers, {len(page) / 1e6:.1f} MB")


def inspect(
    output: Output,
    video_id: Annotated[str, typer.Argument(help="the video's id")],
    to: Annotated[Path, typer.Option(help="the PNG to write; an existing one is replaced")] = Path("clip.png"),
    clip_id: Annotated[str | None, typer.Option(help="which clip, if the video was cut into several")] = None,
    video_path: Annotated[str | None, typer.Option(help="the video's file; default: where it was probed")] = None,
    columns: Annotated[int, typer.Option(min=1, help="frames in a row")] = 4,
    max_steps: Annotated[int, typer.Option(min=1, help="the most frames to draw, spread evenly")] = 60,
    fingerprint: Fingerprint = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Draw a clip's frames as a contact sheet with kept tokens framed, merged ones coloured, dropped ones dark.

    The frames are decoded again. --json adds segments and counts of every temporal step.

    Example: flashvid inspect output clip_1.mp4 --to clip_1.png
    """
    from jobs.inspection import account, contact_sheet, stored_clip
    from pipeline.store.results import Results

    storage = open_storage(output, storage_option)
    results = Results(storage, fingerprint)
    clip, frames, compressed = stored_clip(storage, results, video_id, clip_id, video_path)
    settings = results.job.compression
    title = f"{video_id}, retention_ratio {settings.retention_ratio} ({settings.method})"
    png = BytesIO()
    contact_sheet(frames, compressed, title, sheet_columns=columns, max_steps=max_steps).save(png, format="PNG")
    write_file(to, png.getvalue(), replace=True)
    counted = account(compressed)
    described = {"video_id": video_id, "clip_id": clip["clip_id"], "picture": str(to), **asdict(counted)}
    text = f"{to}: {counted.kept} of {counted.total} tokens kept in {len(counted.segment_lengths)} segments"
    print_result({**described, "retention_ratio": settings.retention_ratio}, text, as_json=as_json)
