"""`flashvid bench compress`: how fast `compress` is, compared with the matrix products that it needs.

One process and one thread, in CPU time, because other work on the machine changes wall time. All settings of a clip run
in the same turns, and the least of several turns counts. The bare matrix products run twice a turn under two names;
turns go on until these two (the A/A control) agree within 5 %, or the time is over.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashvid import CompressionConfig, compress
from jobs.bench.cost import SHORTEST_SECONDS, cpu_seconds, drifting_clip, runs_to_fill, single_thread
from jobs.bench.reports import describe_environment, markdown_table, publish
from jobs.bench.turns import ALL, Patience, take_turns, unsettled

SHAPES = ((32, 196, 3584), (64, 169, 3584), (128, 196, 3584), (384, 196, 3584))
QUICK_SHAPES = ((8, 49, 256), (16, 49, 256))
# The default; as published; and as the preset of inner pruning sets it.
_SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"reference_compatible": True},
    {"token_selection_method": "attn_div_v2", "expansion": 1.25},
)
CONFIGS = [CompressionConfig(retention_ratio=ratio, **more) for ratio in (0.10, 0.25) for more in _SETTINGS]
# Calls on a long clip take seconds, within which disturbances even out.
_PATIENCE, _LONG_PATIENCE, _LONG_FRAMES = Patience(5, 20, seconds=60), Patience(3, 20, seconds=75), 384
QUICK_PATIENCE = Patience(2, 4, seconds=5)
_PRODUCTS = "products"


@dataclass(frozen=True)
class Measurement:
    """One line of the table; times are CPU seconds."""

    frames: int
    tokens: int
    width: int
    retention_ratio: float
    settings: str
    seconds: float
    products_seconds: float
    times_products: float
    control: float
    turns: int

    @property
    def clip(self) -> str:
        """Its size."""
        return f"{self.frames} x {self.tokens} x {self.width}"


# Measures more for our own claims; returns text, and what is over its limit. Its arguments: a folder for figures,
# whether to be quick, and what was measured before.
Study = Callable[[Path | None, bool, Sequence[Measurement]], tuple[str, list[str]]]


def settings_of(config: CompressionConfig) -> str:
    """Return settings for a table."""
    mode = ", reference mode" if config.reference_compatible else ""
    return f"{config.token_selection_method} x {config.expansion:g}{mode}"


def bare_products(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the products that FlashVID needs in any case: within each frame, and of each frame with the next."""
    within = torch.bmm(features, features.transpose(1, 2))
    return within, torch.bmm(features[1:], features[:-1].transpose(1, 2))


def measure(shape: tuple[int, int, int], configs: Sequence[CompressionConfig], patience: Patience) -> list[Measurement]:
    """Measure one clip under several settings, in the same turns."""
    features, scores = drifting_clip(*shape)
    actions: dict[str, Callable[[], object]] = {_PRODUCTS: partial(bare_products, features)}
    actions |= {str(number): partial(compress, features, scores, config) for number, config in enumerate(configs)}

    def timed(action: Callable[[], object]) -> dict[str, float]:
        return {ALL: cpu_seconds(action)}

    # Short calls run several times a turn.
    runs = dict.fromkeys(actions, runs_to_fill(SHORTEST_SECONDS, actions[_PRODUCTS]))
    arms = {name: partial(timed, action) for name, action in actions.items()}
    turns = take_turns(arms, twice=[_PRODUCTS], patience=patience, runs=runs)
    bare, control = turns.least[_PRODUCTS][ALL], turns.controls[_PRODUCTS]
    found = []
    for number, config in enumerate(configs):
        seconds, taken = turns.least[str(number)][ALL], turns.number[str(number)]
        ratio, settings = config.retention_ratio, settings_of(config)
        found.append(Measurement(*shape, ratio, settings, seconds, bare, seconds / bare, control, taken))
    return found


def bench_compress(output: Path | None = None, *, quick: bool = False, study: Study | None = None) -> list[str]:
    """Measure, print a table, and write `compress.csv` and `compress.md`.

    Args:
        output: A folder, created if it is missing; None writes nothing.
        quick: Small clips, to see that the measurement works; its times mean nothing.
        study: What else to measure.

    Returns:
        What the study finds over its limit, in words.
    """
    measurements = []
    with single_thread():
        for shape in QUICK_SHAPES if quick else SHAPES:
            patience = _LONG_PATIENCE if shape[0] >= _LONG_FRAMES else _PATIENCE
            measurements += measure(shape, CONFIGS, QUICK_PATIENCE if quick else patience)
            print(f"measured {' x '.join(map(str, shape))}", flush=True)
        text, missed = study(output, quick, measurements) if study else ("", [])
    rows = (
        f"{m.clip} | {m.retention_ratio:.2f} | {m.settings} | {m.seconds:.3f} | {m.times_products:.2f} "
        f"| {m.control:.1%}"
        for m in measurements
    )
    table = markdown_table("clip | retention | settings | CPU s | x bare products | control", rows)
    table += unsettled(*(m.control for m in measurements))
    report = "\n".join([describe_environment() + "\n", table, text])
    publish(output, "compress", report, [asdict(one) for one in measurements])
    return missed
