"""What a run tells Prometheus: names, and when each value changes; tests/infra/test_cluster.py sees Ray export them."""

from __future__ import annotations

import pickle
import re
from collections import defaultdict
from pathlib import Path

import pytest

from pipeline.clip import Failure
from pipeline.cluster.resources import Pool, Pools
from pipeline.config import CommitConfig
from pipeline.plan.plan import Plan
from pipeline.run.committer import Committer
from pipeline.run.metrics import METRICS, ObservedMonitor, RunMetrics, series_names
from pipeline.run.summary import Progress
from pipeline.store.lease import Lease
from pipeline.store.ledger import Ledger
from pipeline.store.storage import Storage
from tests.support.helpers import clip

POOLS = Pools(
    {"decode": Pool(4, 1.0, 0.0), "encode": Pool(1, 0.0, 1.0, max_size=3), "answer": Pool(1, 0.0, 1.0, max_size=2)},
    max_decoded_clips=2,
)


class Recorded(RunMetrics):
    """Keeps values in this process, as Prometheus would see them, and insists on the labels of each definition."""

    def __init__(self) -> None:
        super().__init__("run-1")
        self.values: dict[tuple[str, *tuple[str, ...]], float] = defaultdict(float)

    def add(self, name: str, amount: float, **labels: str) -> None:
        """Counters grow."""
        if amount > 0:
            self.values[self._key(name, "counter", labels)] += amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Gauges hold the last value."""
        self.values[self._key(name, "gauge", labels)] = value

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Of histograms the sum."""
        self.values[self._key(name, "histogram", labels)] += value

    @staticmethod
    def _key(name: str, kind: str, labels: dict[str, str]) -> tuple[str, *tuple[str, ...]]:
        assert METRICS[name].kind == kind
        assert {"run_id", *labels} == set(METRICS[name].labels)
        return (name, *labels.values())


def test_names_are_what_prometheus_allows_and_ray_adds() -> None:
    """One prefix, no name twice, a description each."""
    assert all(re.fullmatch(r"flashvid_[a-z_]+", definition.name) for definition in METRICS.values())
    assert all(definition.description for definition in METRICS.values())
    assert len(series_names()) == sum(2 if metric.kind == "histogram" else 1 for metric in METRICS.values())
    assert {
        "ray_flashvid_answers_committed_total",
        "ray_flashvid_decoded_clips",
        "ray_flashvid_clip_seconds_bucket",
        "ray_flashvid_busy_seconds_total",
    } <= series_names()


def test_a_clip_on_its_way_through_the_stages() -> None:
    """In hand while a stage has it, in memory from decode to encode; counts and seconds by stage."""
    metrics = Recorded()
    monitor = ObservedMonitor(POOLS, metrics)
    seen = metrics.values
    assert seen["decoded_clips_limit",] == 2
    monitor.begin("a", "decode")
    monitor.begin("b", "decode")
    assert seen["clips_in_hand", "decode"] == 2
    monitor.admit("a")
    monitor.hold("a")
    monitor.end("a", "decode", {"frames_decoded": 8, "clips_sampled_down": 0}, 2.0)
    assert (seen["clips_in_hand", "decode"], seen["decoded_clips",]) == (1, 1)
    monitor.begin("a", "encode")
    monitor.end("a", "encode", {"tokens_encoded": 100, "tokens_committed": 25, "bytes_written": 900}, 0.5)
    monitor.release("a")
    assert (seen["clips_in_hand", "encode"], seen["decoded_clips",]) == (0, 0)
    assert seen["frames_decoded", "decode"] == 8
    assert (seen["tokens_encoded", "encode"], seen["tokens_committed", "encode"]) == (100, 25)
    assert seen["bytes_written", "encode"] == 900
    assert (seen["clip_seconds", "decode"], seen["clip_seconds", "encode"]) == (2.0, 0.5)
    assert (seen["busy_seconds", "decode"], seen["busy_seconds", "encode"]) == (2.0, 0.5)
    # It is still the monitor that the stages ask.
    assert monitor.activity().counts["frames_decoded"] == 8


def test_a_process_that_died_shows() -> None:
    """When its clip is begun again, which is still one clip in hand; clips of a batch count one by one."""
    metrics = Recorded()
    monitor = ObservedMonitor(POOLS, metrics)
    assert monitor.begin("a", "encode") == 0
    assert ("process_deaths", "encode") not in metrics.values
    assert [monitor.begin("a", "encode") for _ in range(2)] == [1, 2]
    assert metrics.values["process_deaths", "encode"] == 2
    assert metrics.values["clips_in_hand", "encode"] == 1
    assert monitor.begin_together(["b", "c"], "answer")
    assert metrics.values["clips_in_hand", "answer"] == 2


def test_actors_of_a_pool_that_grows_and_shrinks() -> None:
    """Never fewer than its least; a clip in hand keeps one for long, an ended one for ten minutes. Batches, too."""
    now, metrics = [0.0], Recorded()
    monitor = ObservedMonitor(POOLS, metrics, clock=lambda: now[0])
    seen = metrics.values
    assert [seen["actors", stage] for stage in ("decode", "encode", "answer")] == [4, 1, 1]
    for actor in "xyz":
        monitor.begin(actor, "encode", actor)
    monitor.begin_together(["a", "b"], "answer", "v")
    monitor.begin_together(["c", "d"], "answer", "w")
    assert [seen["actors", stage] for stage in ("decode", "encode", "answer")] == [4, 3, 2]
    # Its process died, and Ray started it again.
    monitor.begin("x", "encode", "x")
    assert seen["actors", "encode"] == 3
    for minute in (1, 30):
        now[0] = 60.0 * minute
        monitor.end("x", "encode", {}, 1.0, "x")
    assert seen["actors", "encode"] == 3
    monitor.end("y", "encode", {}, 1.0, "y")
    monitor.end("z", "encode", {}, 1.0, "z")
    now[0] = 60.0 * 41
    monitor.begin("e", "encode", "x")
    assert seen["actors", "encode"] == 1


def test_what_the_driver_knows() -> None:
    """The plan, progress, and its own requests to storage."""
    metrics = Recorded()
    todo = Plan((clip("a"), clip("b", attempt=2)), (clip("c"),))
    metrics.started(todo.counts)
    metrics.progressed(Progress(2, 3, 8, 12, 1, 5.0), {"bytes_written": 70, "requests_repeated": 3})
    seen = metrics.values
    assert (seen["clips_to_encode",], seen["clips_cached",], seen["clips_tried_again",]) == (2, 1, 1)
    assert (seen["clips_done",], seen["clips_planned",], seen["answers_planned",]) == (2, 3, 12)
    assert (seen["bytes_written", "driver"], seen["requests_repeated", "driver"]) == (70, 3)


def test_rows_count_when_they_are_on_storage(tmp_path: Path) -> None:
    """Not before; failures by stage and type."""
    metrics = Recorded()
    storage = Storage(str(tmp_path))
    lease = Lease.acquire(storage, "run-1")
    committer = Committer(Ledger(storage, "f" * 16), lease, CommitConfig(rows=9), on_commit=metrics.committed)
    for name, error in (("a", "UnreadableVideoError"), ("b", "UnreadableVideoError"), ("c", "WorkerDiedError")):
        kind = "transient" if error == "WorkerDiedError" else "permanent"
        committer.add_failure(clip(name), Failure("decode", error, kind, "message", "traceback"))
    committer.tick()
    assert not metrics.values
    committer.flush()
    assert dict(metrics.values) == {
        ("failures_committed", "decode", "UnreadableVideoError", "permanent"): 2,
        ("failures_committed", "decode", "WorkerDiedError", "transient"): 1,
    }


def test_traffic_is_counted_once(tmp_path: Path) -> None:
    """Bytes of whole objects, since it was last asked."""
    storage = Storage(str(tmp_path))
    assert storage.create("a/b", b"12345")
    assert storage.read("a/b") == b"12345"
    storage.read("a/b")
    # A task of Ray's gets a copy, which has moved nothing: the one here counts that.
    copy = pickle.loads(pickle.dumps(storage))  # noqa: S301 - our own bytes
    assert copy.take_traffic() == {}
    copy.read("a/b")
    assert copy.take_traffic() == {"bytes_read": 5}
    assert storage.take_traffic() == {"bytes_written": 5, "bytes_read": 10}
    assert storage.take_traffic() == {}


def test_requests_without_an_answer_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a store that throttles shows first."""
    storage = Storage("memory://metrics")
    answers = iter([OSError("SlowDown"), OSError("SlowDown"), b"there"])

    def cat_file(path: str) -> bytes:
        del path
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(storage.fs, "cat_file", cat_file)
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert storage.read("object") == b"there"
    assert storage.take_traffic() == {"requests_repeated": 2, "bytes_read": 5}


def test_without_ray_values_go_nowhere() -> None:
    """A run with nothing to do commits failures of its plan and never starts Ray."""
    metrics = RunMetrics("run-1")
    metrics.committed(2, [{"stage": "plan", "error_type": "InputRowError", "error_kind": "permanent"}])
    for definition in METRICS.values():
        assert set(definition.labels) >= {"run_id"}
        definition.create()
    with pytest.raises(KeyError):
        metrics.counts({"unheard_of": 1}, "encode")
