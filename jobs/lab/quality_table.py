"""From single answers to the table of `bench quality`: accuracies, relative to full tokens, with their intervals."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from pyarrow import csv

from jobs.bench.reports import write_rows
from jobs.evaluation.accuracy import ratio_interval
from jobs.lab.figures import new_figure
from jobs.lab.measurement import FULL, Measurement

ALL = "all"


@dataclass(frozen=True)
class QualityRow:
    """One line of quality.csv.

    Attributes:
        method: Name of the arm.
        retention: The requested retention, as a fraction.
        realised_tokens: Visual tokens per clip in the decoder, averaged over its layers and over clips.
        family: Of the questions; `all` for all of them.
        seed: Of the first clip, from which all others follow.
        n: Questions.
        accuracy: Share of exact answers.
        first_answer_accuracy: Share of answers that begin with the right one.
        relative: Accuracy over that of full tokens (or another reference) on the same questions.
        ci_low: Lower end of the 95 % interval of `relative`: paired, over clips.
        ci_high: Upper end.
    """

    method: str
    retention: float
    realised_tokens: float
    family: str
    seed: int
    n: int
    accuracy: float
    first_answer_accuracy: float
    relative: float
    ci_low: float
    ci_high: float


def quality_rows(measured: Iterable[Measurement], reference: str, seed: int) -> list[QualityRow]:
    """Summarise by method and retention, over all families and for each, in the order in which they first appear.

    Args:
        measured: Every answer.
        reference: The method that `relative` relates to; at retention 1.
        seed: For the table.
    """
    groups: dict[tuple[str, float], list[Measurement]] = {}
    for one in measured:
        groups.setdefault((one.method, one.retention), []).append(one)
    right = {(one.clip, one.question): one.exact for one in groups[reference, 1.0]}
    families = sorted({one.family for one in groups[reference, 1.0]})
    rows = []
    for group in groups.values():
        for family in (ALL, *families):
            members = [one for one in group if family in (ALL, one.family)]
            if members:
                rows.append(_row(members, right, family, seed))
    return rows


def _row(members: Sequence[Measurement], right: dict[tuple[int, int], bool], family: str, seed: int) -> QualityRow:
    exact = np.array([one.exact for one in members], dtype=np.float64)
    reference = np.array([right[one.clip, one.question] for one in members], dtype=np.float64)
    interval = ratio_interval(np.array([one.clip for one in members]), exact, reference)
    return QualityRow(
        method=members[0].method,
        retention=members[0].retention,
        realised_tokens=float(np.mean([one.tokens for one in members])),
        family=family,
        seed=seed,
        n=len(members),
        accuracy=float(exact.mean()),
        first_answer_accuracy=float(np.mean([one.first for one in members])),
        relative=interval.value,
        ci_low=interval.low,
        ci_high=interval.high,
    )


def write_csv(path: Path, rows: Sequence[QualityRow]) -> None:
    """Write rows as CSV, with numbers rounded."""
    write_rows(path, [{name: _rounded(value) for name, value in asdict(row).items()} for row in rows])


def read_csv(path: Path) -> list[QualityRow]:
    """Read what `write_csv` wrote."""
    names = [field.name for field in fields(QualityRow)]
    return [QualityRow(**{name: row[name] for name in names}) for row in csv.read_csv(path).to_pylist()]


def markdown(rows: Sequence[QualityRow]) -> str:
    """Return the rows over all families as a Markdown table."""
    lines = [
        "| method | retention | tokens | n | accuracy | first answer | relative | 95 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.method} | {row.retention:.2f} | {row.realised_tokens:.1f} | {row.n} | {row.accuracy:.3f} "
        f"| {row.first_answer_accuracy:.3f} | {row.relative:.3f} | {row.ci_low:.3f} to {row.ci_high:.3f} |"
        for row in rows
        if row.family == ALL
    ]
    return "\n".join(lines) + "\n"


def family_markdown(rows: Sequence[QualityRow], retention: float) -> str:
    """Return a table of accuracies by family, for full tokens and every method at one retention."""
    shown = [row for row in rows if row.retention == retention or row.method == FULL]
    families = sorted({row.family for row in shown} - {ALL})
    lines = ["| method | " + " | ".join(families) + " |", "|---|" + "---|" * len(families)]
    for method in dict.fromkeys(row.method for row in shown):
        accuracies = {row.family: f"{row.accuracy:.3f}" for row in shown if row.method == method}
        lines.append(f"| {method} | " + " | ".join(accuracies.get(family, "") for family in families) + " |")
    return "\n".join(lines) + "\n"


def plot_quality(path: Path, rows: Sequence[QualityRow], methods: Sequence[str]) -> None:
    """Draw relative accuracy against realised tokens: a line with its interval for every method."""
    if (figure := new_figure(8, 5)) is None:
        return
    axes = figure.subplots()
    for method in methods:
        line = sorted(
            (row for row in rows if row.method in (method, FULL) and row.family == ALL),
            key=lambda row: row.realised_tokens,
        )
        tokens = [row.realised_tokens for row in line]
        axes.plot(tokens, [row.relative for row in line], marker="o", markersize=3, label=method)
        axes.fill_between(tokens, [row.ci_low for row in line], [row.ci_high for row in line], alpha=0.15)
    axes.set_xscale("log")
    axes.set_xlabel("visual tokens per clip, averaged over the decoder's layers")
    axes.set_ylabel("accuracy relative to full tokens")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


def _rounded(value: object) -> object:
    return round(value, 5) if isinstance(value, float) else value
