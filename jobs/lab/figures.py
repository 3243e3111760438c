"""Figures of the lab's reports, drawn by matplotlib where it is installed."""

from importlib.util import find_spec
from typing import Any

NO_PLOTS = "no plot: matplotlib is not installed (pip install 'flashvid-pipeline[bench]')"


def new_figure(width: float, height: float) -> Any | None:  # noqa: ANN401 - matplotlib's, which is optional
    """Return a figure of that size in inches, or None without matplotlib, which is then reported."""
    if find_spec("matplotlib") is None:
        print(NO_PLOTS)
        return None
    # The figure class itself, not pyplot: no global state, no display.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")
