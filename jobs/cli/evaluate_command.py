"""`flashvid evaluate`: accuracy of a run's answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jobs.cli.options import AsJson, Fingerprint, Output, StorageOptions, open_storage, write_json

if TYPE_CHECKING:
    from jobs.evaluation.accuracy import Accuracy, Comparison, Evaluation, Item
    from jobs.lab.bootstrap import Interval
    from pipeline.store.results import Results

_PERCENT = 100.0


def evaluate(
    output: Output,
    by: Annotated[
        list[str] | None,
        typer.Option(help="also by the questions' category, or by a column of the videos table; may be repeated"),
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="count as this benchmark does, beside its published number: see flashvid convert")
    ] = None,
    against: Annotated[str | None, typer.Option(help="another output: compare question by question")] = None,
    unanswered: Annotated[
        Literal["wrong", "left-out"], typer.Option(help="what a question without an answer counts as")
    ] = "wrong",
    answered_only: Annotated[
        bool, typer.Option("--answered-only", help="read no tables: the answers that are there, and no categories")
    ] = False,
    job: Annotated[
        Path | None, typer.Option(help="a job file whose tables count, if the run's own have moved or were corrected")
    ] = None,
    letters: Annotated[
        str | None,
        typer.Option(help="how a response names its option: ranked, ranked-of-four, earliest, first, any-case"),
    ] = None,
    fingerprint: Fingerprint = None,
    against_fingerprint: Annotated[str | None, typer.Option(help="the same of --against")] = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's answers against the expected ones: accuracy with its 95 % interval, overall and by category.

    A failure is no answer: questions without one count as wrong, or are left out, and their number is said.

    Example: flashvid evaluate output --by category --against output-full --json
    """
    from flashvid.errors import ConfigurationError
    from jobs.datasets import benchmark_named
    from jobs.evaluation.accuracy import compare
    from jobs.evaluation.accuracy import evaluate as add_up
    from jobs.evaluation.items import all_items, answered_items
    from jobs.evaluation.letters import LETTER_RULES
    from jobs.job_file import load_job
    from pipeline.store.results import Results

    asked = benchmark_named(benchmark) if benchmark else None
    rule_name = letters or (asked.letters if asked else "ranked")
    if rule_name not in LETTER_RULES:
        raise ConfigurationError(f"--letters {rule_name} is none of {', '.join(LETTER_RULES)}")
    categories = by or (list(asked.categories) if asked and not answered_only else [])
    if answered_only and categories:
        raise ConfigurationError("--answered-only reads no tables, and so knows no categories: leave out one of them")

    def items_of(url: str, which: str | None) -> tuple[Results, list[Item]]:
        results = Results(open_storage(url, storage_option), which)
        rule = LETTER_RULES[rule_name]
        if answered_only:
            return results, answered_items(results, rule)
        return results, all_items(results, load_job(job) if job else results.job, categories, rule)

    results, items = items_of(output, fingerprint)
    found = add_up(items, unanswered)
    comparison = compare(items, items_of(against, against_fingerprint)[1], unanswered) if against else None
    published = asked.published(results.record["job"]) if asked else ()
    console = Console()
    if as_json:
        described: dict[str, Any] = {
            "output": output,
            "fingerprint": results.fingerprint,
            "letters": rule_name,
            **asdict(found),
            "against": None if comparison is None else {"output": against, **asdict(comparison)},
            "published": [asdict(number) for number in published],
        }
        write_json(console, described)
        return
    console.print(_table(found, [(number.shown, number.accuracy) for number in published]))
    for line in _remarks(found):
        console.print(line)
    if comparison is not None:
        console.print(Text(_compared(comparison, str(against))), soft_wrap=True)


def _table(found: Evaluation, published: list[tuple[str, float]]) -> Table:
    table = Table("", "questions", "right", "accuracy %", "95 % interval")
    table.add_row("all", *_cells(found.overall))
    for name, values in found.by_category.items():
        table.add_section()
        for value, accuracy in values.items():
            table.add_row(Text(f"{name}: {value}"), *_cells(accuracy))
        mean = found.mean_over[name]
        table.add_row(Text(f"mean over {name}"), "", "", "" if mean is None else f"{_PERCENT * mean:.1f}", "")
    if published:
        table.add_section()
        for shown, percent in published:
            table.add_row(Text(shown), "", "", f"{percent:.1f}", "")
    return table


def _cells(accuracy: Accuracy) -> tuple[str, str, str, str]:
    counts = (f"{accuracy.questions:,}", f"{accuracy.right:,}")
    return (*counts, *_percent(accuracy.accuracy))


def _percent(interval: Interval | None) -> tuple[str, str]:
    if interval is None:
        return "", ""
    return f"{_PERCENT * interval.value:.1f}", f"{_PERCENT * interval.low:.1f} to {_PERCENT * interval.high:.1f}"


def _remarks(found: Evaluation) -> Iterator[str]:
    if found.unanswered:
        how = "count as wrong" if found.unanswered_count_as == "wrong" else "are left out of every number"
        yield f"{found.unanswered:,} questions have no answer and {how}"
    if found.unread:
        yield f"{found.unread:,} answers do not say which option they mean, and count as wrong"


def _compared(found: Comparison, against: str) -> str:
    if found.difference is None or found.accuracy is None or found.other_accuracy is None:
        return f"no question counts here and in {against}"
    value, interval = _percent(found.difference)
    return (
        f"against {against}, on {found.questions:,} questions: {_PERCENT * found.accuracy:.1f} % and "
        f"{_PERCENT * found.other_accuracy:.1f} %, a difference of {value} points (95 %: {interval}); "
        f"{found.only_first:,} right only here, {found.only_other:,} only there"
    )
