"""Defines and records the metrics of a run for Prometheus; Ray exports them on each node's metrics port.

Ray adds `ray_` before each name and `_total` after a counter's; `MetricDefinition.series` returns the exported names.
The rules and the dashboard in `infra/` use only these names, which tests check. Metrics do not influence a run: it
works the same if they are not collected.

    decode, encode, answer ─► RunMonitor (ObservedMonitor) ─┐
                                                            ├─► Ray's metrics agent ─► Prometheus
    the driver: plan, progress, commits ────────────────────┘
"""

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.util.metrics import Counter, Gauge, Histogram

from pipeline.cluster.monitor import RunMonitor
from pipeline.cluster.resources import Pools
from pipeline.plan.plan import PlanCounts
from pipeline.run.summary import Progress
from pipeline.stages import STAGES

_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
# Labels of every metric.
_RUN = ("run_id",)
_STAGE = ("run_id", "stage")
_DRIVER = "driver"

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True)
class MetricDefinition:
    """Defines one metric.

    Attributes:
        name: Name as given to Ray.
        kind: counter, gauge or histogram.
        labels: Names of its labels, without the ones that Ray adds (node, process, session).
        description: Description that the metrics endpoint and the dashboard show.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    description: str

    @property
    def series(self) -> tuple[str, ...]:
        """Return the names of the metric's series in Prometheus."""
        exported = f"ray_{self.name}"
        if self.kind == "counter":
            return (f"{exported}_total",)
        if self.kind == "histogram":
            return tuple(f"{exported}_{part}" for part in ("bucket", "count"))
        return (exported,)

    def create(self) -> Counter | Gauge | Histogram:
        """Create Ray's recorder of the metric in this process."""
        if self.kind == "histogram":
            return Histogram(self.name, self.description, [*_SECONDS], self.labels)
        recorder = Counter if self.kind == "counter" else Gauge
        return recorder(self.name, self.description, self.labels)


# Descriptions of counters by name: the work that stages count, labelled by stage, and the traffic of the output's and
# the cache's stores.
COUNTS: Mapping[str, str] = {
    **{name: description for stage in STAGES for name, description in stage.counted.items()},
    "requests_repeated": "requests to the output's or the cache's store that got no answer and were repeated",
    "bytes_read": "bytes read from the output's or the cache's store",
    "bytes_written": "bytes written to the output's or the cache's store",
}


# By the name without `flashvid_`: kind, labels, description.
_DEFINITIONS: Mapping[str, tuple[Kind, tuple[str, ...], str]] = {
    **{name: ("counter", _STAGE, description) for name, description in COUNTS.items()},
    "busy_seconds": ("counter", _STAGE, "seconds of work, over all processes of a stage"),
    # Ray's agent knows only each value's bucket: counts are exact, sums are not.
    "clip_seconds": ("histogram", _STAGE, "seconds of work on one clip"),
    "process_deaths": ("counter", _STAGE, "clips started again after their process died"),
    "clips_in_hand": ("gauge", _STAGE, "clips that a stage works on"),
    "actors": ("gauge", _STAGE, "processes of a stage: the smallest size of its pool, or as many as worked recently"),
    "decoded_clips": ("gauge", _RUN, "clips whose frames are in memory"),
    "decoded_clips_limit": ("gauge", _RUN, "limit of decoded_clips"),
    "clips_to_encode": ("gauge", _RUN, "clips that this run decodes and encodes"),
    "clips_cached": ("gauge", _RUN, "clips whose tokens were committed before this run"),
    "clips_tried_again": ("gauge", _RUN, "planned clips that failed in an earlier run"),
    "clips_planned": ("gauge", _RUN, "clips that this run works on"),
    "clips_done": ("gauge", _RUN, "clips that have left the last stage, failed ones included"),
    "answers_planned": ("gauge", _RUN, "answers that were missing when the run began"),
    "answers_committed": ("counter", _RUN, "answers on storage, made by this run"),
    "failures_committed": ("counter", ("run_id", "stage", "error_type", "error_kind"), "rows added to failures/"),
}
METRICS: Mapping[str, MetricDefinition] = {
    name: MetricDefinition(f"flashvid_{name}", *definition) for name, definition in _DEFINITIONS.items()
}


class RunMetrics:
    """Records the metrics of a run in one of its processes.

    Args:
        run_id: Id of the run, a label of every metric.
    """

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._recorders: dict[str, Any] = {}

    def add(self, name: str, amount: float, **labels: str) -> None:
        """Add an amount to a counter; an amount of 0 records nothing."""
        if amount > 0:
            self._recorder(name).inc(amount, labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        self._recorder(name).set(value, labels)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add a value to a histogram."""
        self._recorder(name).observe(value, labels)

    def counts(self, counts: Mapping[str, int], stage: str) -> None:
        """Add a stage's counts to the counters of the same names.

        Raises:
            KeyError: `COUNTS` lacks a name, whose counts would otherwise be lost unnoticed.
        """
        for name, count in counts.items():
            self.add(name, count, stage=stage)

    def started(self, todo: PlanCounts) -> None:
        """Record the counts of the plan."""
        self.set("clips_to_encode", todo.clips_to_encode)
        self.set("clips_cached", todo.clips_cached)
        self.set("clips_tried_again", todo.clips_tried_again)

    def progressed(self, progress: Progress, traffic: Mapping[str, int]) -> None:
        """Record the run's progress, and the driver's storage traffic since the last call."""
        self.set("clips_planned", progress.clips_planned)
        self.set("clips_done", progress.clips_done)
        self.set("answers_planned", progress.answers_planned)
        self.counts(traffic, _DRIVER)

    def committed(self, num_answers: int, failures: Iterable[Mapping[str, Any]]) -> None:
        """Record a commit.

        Args:
            num_answers: Number of committed answers.
            failures: Committed rows of `failures/`.
        """
        self.add("answers_committed", num_answers)
        kinds = Tally((row["stage"], row["error_type"], row["error_kind"]) for row in failures)
        for (stage, error_type, error_kind), count in kinds.items():
            self.add("failures_committed", count, stage=stage, error_type=error_type, error_kind=error_kind)

    def _recorder(self, name: str) -> Any:  # noqa: ANN401 - one of three classes without a common method
        if name not in self._recorders:
            self._recorders[name] = METRICS[name].create().set_default_tags({"run_id": self._run_id})
        return self._recorders[name]


class ObservedMonitor(RunMonitor):
    """Records as metrics what the run's monitor sees; every clip passes the monitor at each stage.

    Args:
        pools: Actor pools of the run, which may grow.
        metrics: Recorder of the metrics.
        clock: Function that returns the time in seconds.
    """

    def __init__(self, pools: Pools, metrics: RunMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(pools.max_decoded_clips, clock)
        self._metrics = metrics
        self._least = {stage: pool.size for stage, pool in pools.by_stage.items()}
        self._in_hand: dict[str, set[str]] = {stage: set() for stage in self._least}
        metrics.set("decoded_clips_limit", pools.max_decoded_clips)
        for stage in self._least:
            self._show(stage)

    def begin(self, clip_id: str, stage: str, actor_id: str = "") -> int:
        """Extend `RunMonitor.begin`: also record the deaths and the clip."""
        deaths = super().begin(clip_id, stage, actor_id)
        self._metrics.add("process_deaths", min(deaths, 1), stage=stage)
        self._in_hand[stage].add(clip_id)
        self._show(stage)
        return deaths

    def end(self, clip_id: str, stage: str, counts: Mapping[str, int], seconds: float, actor_id: str = "") -> None:
        """Extend `RunMonitor.end`: also record the counts and the seconds."""
        super().end(clip_id, stage, counts, seconds, actor_id)
        self._metrics.counts(counts, stage)
        self._metrics.add("busy_seconds", seconds, stage=stage)
        self._metrics.observe("clip_seconds", seconds, stage=stage)
        self._in_hand[stage].discard(clip_id)
        self._show(stage)

    def hold(self, clip_id: str) -> None:
        """Extend `RunMonitor.hold`: also record the number of clips in memory."""
        super().hold(clip_id)
        self._metrics.set("decoded_clips", self.num_held)

    def release(self, clip_id: str) -> None:
        """Extend `RunMonitor.release`: also record the number of clips in memory."""
        super().release(clip_id)
        self._metrics.set("decoded_clips", self.num_held)

    def _show(self, stage: str) -> None:
        self._metrics.set("clips_in_hand", len(self._in_hand[stage]), stage=stage)
        self._metrics.set("actors", max(self._least[stage], self.num_actors(stage)), stage=stage)


def series_names() -> frozenset[str]:
    """Return the names of all series that a run exports to Prometheus."""
    return frozenset(name for definition in METRICS.values() for name in definition.series)
