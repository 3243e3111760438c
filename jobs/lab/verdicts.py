"""What may be said of a measured ratio, given its controls."""

from __future__ import annotations

from jobs.bench.turns import CONTROL, settled


def verdict(
    measured: float, target: float, *controls: float, uncertainty: float | None = None, at_most: bool = False
) -> str:
    """Say whether a ratio meets its target; "no claim" without a control, or if it is too near the target.

    Args:
        measured: The ratio.
        target: The least that it should be.
        controls: Relative difference between two measurements of one arm, for each arm compared.
        uncertainty: Of the ratio, as a share; None for the largest of the controls.
        at_most: Whether the target is the most that it should be.
    """
    near = max(controls) if uncertainty is None else uncertainty
    if not settled(*controls) or abs(measured / target - 1) <= near:
        return "no claim"
    return "met" if (measured <= target) == at_most else "not met"


def told_ratio(value: float, *controls: float) -> str:
    """Return a ratio for a table; empty if a control is too large, or the ratio is within the control of 1."""
    return f"{value:.1f}x" if settled(*controls) and abs(value - 1) > CONTROL else ""
