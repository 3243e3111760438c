"""Seeds of `make fuzz`, and a few examples of each kind that are the same each time."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.kinds import KINDS

SEEDS = [(name, number) for name, kind in KINDS.items() for number in range(len(kind.seeds))]


@pytest.mark.parametrize(("name", "number"), SEEDS)
def test_a_seed(name: str, number: int) -> None:
    """One message, or what a sound input gives."""
    KINDS[name].check(KINDS[name].seeds[number])


@pytest.mark.parametrize("name", KINDS)
def test_examples(name: str) -> None:
    """The same ones each time."""
    kind = KINDS[name]
    quiet = settings(
        max_examples=15, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    quiet(given(kind.strategy)(kind.check))()
