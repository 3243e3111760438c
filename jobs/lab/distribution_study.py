"""What `flashvid bench pipeline` adds for our own claims: the cost of distribution.

It is measured in CPU time, in idle GPUs, and in the driver.

CPU time of a run on Ray is that of its processes, one by one. A run of a few clips is subtracted: every process that
imports and loads models does so once, however many clips there are. The loop's first clips are left out. The loop
takes half of the clips before the run and half after it: their difference is the control.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from jobs.bench.local_run import NUM_FRAMES, QUESTIONS
from jobs.bench.reports import describe_environment
from jobs.bench.turns import CONTROL, settled
from jobs.lab.distribution import FEW, Distribution, encode_actors, json_of, measure_distribution, one_thread
from jobs.lab.planning import PlanningCost, measure_planning
from jobs.lab.process_tree import KINDS, Kind
from jobs.lab.ray_session import ray_session
from jobs.lab.sleeping import Asleep, Sleeps
from pipeline.plan.shards import ROWS_PER_SHARD


@dataclass(frozen=True)
class Scope:
    """How much is measured.

    Attributes:
        clips: Of the run on Ray and of the loop.
        turns: Turns of these; the one with the smallest control is reported.
        sleeping: Clips of the sleeping graph with one bottleneck actor; twice as many with two.
        executed: Clips that go through stages that do nothing.
        planned: Clips of the plans.
    """

    clips: int = 48
    turns: int = 2
    sleeping: int = 45
    executed: int = 1000
    planned: tuple[int, ...] = (10_000, 100_000)


QUICK = Scope(clips=2, turns=1, sleeping=10, executed=20, planned=(1000,))
# The bottleneck is encode, as on GPUs; the others have half of their time to spare.
_SLEEPS = {"decode": 0.1, "encode": 0.4, "answer": 0.1}
# Questions of a clip that goes through stages that do nothing, as many as in the large job (large_job.py).
_EXECUTED_QUESTIONS = 20
_NOTHING = dict.fromkeys(_SLEEPS, 0.0)
_NAMES: Mapping[Kind, str] = {"driver": "driver", "workers": "actors", "daemons": "Ray's daemons"}


@dataclass(frozen=True)
class PipelineCosts:
    """All results.

    Attributes:
        distribution: The run and the loop.
        one: The sleeping graph with one bottleneck actor.
        two: And with two.
        executed: Stages that do nothing, and how many clips they did it for.
        planned: Plans.
    """

    distribution: Distribution
    one: Asleep
    two: Asleep
    executed: tuple[int, Asleep]
    planned: tuple[PlanningCost, ...]

    @property
    def growth(self) -> float:
        """Growth of throughput from one to two bottleneck actors."""
        return self.two.clips_per_second / self.one.clips_per_second


def distribution_study(*, quick: bool = False, clips: int | None = None, turns: int | None = None) -> str:
    """Measure; return the tables, for `pipeline.md`.

    Args:
        quick: Few clips, to see that the measurement works; its figures mean little.
        clips: Of the run and the loop; None for the scope's own.
        turns: Of these; None for the scope's own.

    Raises:
        subprocess.CalledProcessError: a measured process failed; its stderr says why.
    """
    scope, before = QUICK if quick else Scope(), os.getloadavg()[0]
    with ray_session(one_thread()) as session:
        distribution = measure_distribution(session, clips or scope.clips, turns or scope.turns)
        planned = tuple(measure_planning(number, 2, session.environment) for number in scope.planned)
    # The measurement of memory comes first: a process does not give memory back.
    executed, one, two = _asleep(
        Sleeps(scope.executed, 1, _NOTHING, questions=_EXECUTED_QUESTIONS),
        Sleeps(scope.sleeping, 1, _SLEEPS),
        Sleeps(2 * scope.sleeping, 2, _SLEEPS),
    )
    found = PipelineCosts(distribution, one, two, (scope.executed, executed), planned)
    beside = f"load of the machine {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    return pipeline_markdown(found, beside)


def _asleep(*several: Sleeps) -> list[Asleep]:
    found = json_of("-m", "jobs.lab.sleeping", json.dumps([asdict(sleeps) for sleeps in several]))
    return [Asleep(**one) for one in found]


def pipeline_markdown(found: PipelineCosts, beside: str) -> str:
    """Return the report.

    Args:
        found: What was measured.
        beside: The machine's load, as a sentence.
    """
    spread, best, (number, executed) = found.distribution, found.distribution.best, found.executed
    lines = [
        "# What the distribution costs",
        "",
        f"{describe_environment()}; {beside}.",
        "",
        f"CPU seconds per clip, {spread.clips} clips of {NUM_FRAMES} frames and {len(QUESTIONS)} questions, the "
        f"calmest of {len(spread.turns)} turns, {encode_actors()} encode actors; what happens once, a run of {FEW} "
        "clips, apart:",
        "",
        "| | plain loop | " + " | ".join(_NAMES.values()) + " | without daemons | with daemons |",
        "|---" * 7 + "|",
        f"| per clip | {best.loop_seconds:.3f} | "
        + " | ".join(f"{best.run[kind]:.3f}" for kind in KINDS)
        + f" | {best.ratio:.2f}x | {best.ratio_with_daemons:.2f}x |",
        "| once | | " + " | ".join(f"{best.once[kind]:.1f}" for kind in KINDS) + " | | |",
        "",
        f"Controls: the loops before and after the run differ by {best.control:.1%}, {_ratio_control(spread)}. "
        f"{_unsettled(spread)}The ratios are accurate to {spread.uncertainty:.1%}, including the one-time costs. "
        "The run gave the same answers as the loop.",
        "",
        "Stages that sleep "
        + ", ".join(f"{seconds} s ({stage})" for stage, seconds in _SLEEPS.items())
        + " a clip, on logical GPUs:",
        "",
        "| encode actors | clips per second | busy | growth |",
        "|---" * 4 + "|",
        f"| 1 | {found.one.clips_per_second:.2f} | {found.one.busy:.1%} | |",
        f"| 2 | {found.two.clips_per_second:.2f} | {found.two.busy:.1%} | {found.growth:.2f}x |",
        "",
        "The driver, with stages that do nothing and with plans alone (half of the answers there already; "
        f"more than {ROWS_PER_SHARD:,} clips are planned by tasks, whose time is not the driver's):",
        "",
        "| | clips | driver, CPU ms per clip | driver, MB |",
        "|---" * 4 + "|",
        f"| executed | {number:,} | {executed.driver_seconds * 1e3:.2f} | {executed.driver_bytes / 1e6:.0f} |",
    ]
    lines += [
        f"| planned | {cost.counts.clips_total:,} | {cost.cpu_seconds / cost.counts.clips_total * 1e3:.2f} "
        f"| {cost.driver_bytes / 1e6:.0f} |"
        for cost in found.planned
    ]
    return "\n".join(lines) + "\n"


def _ratio_control(spread: Distribution) -> str:
    control = spread.ratio_control
    return (
        "none for the ratio, with fewer than two calm turns"
        if control is None
        else f"the ratio in calm turns {control:.1%}"
    )


def _unsettled(spread: Distribution) -> str:
    return "" if settled(*spread.controls) else f"One is above {CONTROL:.0%}: the ratios are not reported. "
