"""Plots of the benchmarks. matplotlib is needed for these alone: `pip install flashvid-pipeline[bench]`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jobs.lab.measurement import FULL
from jobs.lab.quality_table import ALL, QualityRow


def plot_quality(path: Path, rows: Sequence[QualityRow], methods: Sequence[str]) -> None:
    """Draw relative accuracy against realised tokens, a line with its interval for every method.

    `results.can_plot` says whether pictures can be drawn at all.
    """
    # The figure class itself, not pyplot: no global state, no display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
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


def plot_bars(path: Path, values: Mapping[str, float], title: str) -> None:
    """Draw a bar for every name; NaN has none."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.3 * len(values)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh([*values], [*values.values()])
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel(title)
    axes.grid(visible=True, axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
