"""The committer: batches by rows and by seconds, under the lease, nothing lost and nothing twice."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest

from pipeline.clip import ClipMessage, Failure
from pipeline.config import CommitConfig
from pipeline.errors import OutputLockedError, StorageUnavailableError
from pipeline.run.committer import Committer
from pipeline.store.lease import LEASE_SECONDS, Lease
from pipeline.store.ledger import OBJECTS_AT_ONCE, Ledger
from pipeline.store.storage import Storage
from tests.support.helpers import clip, one_per_shard

FAILURE = Failure("decode", "UnreadableVideoError", "permanent", "cut short", "Traceback ...")


class Clock:
    """Seconds that pass when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Pass."""
        self.now += seconds


class FlakyStorage(Storage):
    """Real storage that breaks down at the writes it is told to, before or after writing."""

    def __init__(self, url: str, clock: Clock) -> None:
        super().__init__(url)
        self.clock = clock
        self.away_until = 0.0
        self.writes = self.ended = 0
        self.break_before: set[int] = set()
        self.break_after: set[int] = set()
        self.before_write: Callable[[], object] = lambda: None
        self.after_write: Callable[[], object] = lambda: None
        self.counting = threading.Lock()

    def create(self, name: str, content: bytes, **options: Any) -> bool:
        """Count, and break down on time."""
        if self.clock() < self.away_until:
            raise StorageUnavailableError("no answer within 25 s", self.url)
        if name.startswith("lease/"):
            return super().create(name, content, **options)
        with self.counting:
            self.before_write()
            self.writes += 1
            write = self.writes
        try:
            if write in self.break_before:
                raise TimeoutError("storage is away")
            created = super().create(name, content, **options)
            with self.counting:
                self.after_write()
            if write in self.break_after:
                raise TimeoutError("the reply was lost")
            if self.break_before | self.break_after:
                time.sleep(0.05)  # those beside the one that broke take longer than it
            return created
        finally:
            with self.counting:
                self.ended += 1


class Desk:
    """A committer with everything around it."""

    def __init__(self, folder: Path, config: CommitConfig) -> None:
        self.folder = folder
        self.clock = Clock()
        self.storage = FlakyStorage(str(folder), self.clock)
        self.lease = Lease.acquire(self.storage, "run-1", clock=self.clock)
        self.committer = Committer(Ledger(self.storage, "f"), self.lease, config, self.clock, self.clock.sleep)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """What a reader sees."""
        if not (self.folder / name).exists():
            return []
        rows: list[dict[str, Any]] = ds.dataset(self.folder / name, format="parquet").to_table().to_pylist()
        return rows

    def answered(self) -> list[tuple[str, str]]:
        """Committed answers as pairs."""
        return sorted((row["video_id"], row["question_id"]) for row in self.rows("answers"))


def desk(folder: Path, rows: int = 1000, seconds: float = 15.0) -> Desk:
    """A committer that commits after so many rows or seconds."""
    return Desk(folder, CommitConfig(rows=rows, seconds=seconds))


def message(name: str, *questions: str, failures: tuple[Failure, ...] = ()) -> ClipMessage:
    """A clip that comes out of the last stage."""
    answers = tuple({"question_id": question, "response": f"{name} {question}"} for question in questions)
    return ClipMessage(clip(name, attempt=2, start_s=0.5), answers=answers, failures=failures)


def test_rows_say_where_they_come_from(tmp_path: Path) -> None:
    """The clip's part and the run's part are added to what the stages said."""
    at = desk(tmp_path)
    at.committer.add(message("a", "q1", failures=(FAILURE,)))
    at.committer.flush()
    (answer,) = at.rows("answers")
    both = {"clip_id": "clip-a", "video_id": "video-a", "source_id": "source-a", "start_s": 0.5, "end_s": None}
    both |= {"attempt": 2, "run_id": "run-1"}
    expected = {**both, "question_id": "q1", "response": "a q1"}
    assert {name: answer[name] for name in expected} == expected
    (failure,) = at.rows("failures")
    assert failure == {**both, "video_path": "/videos/a.mp4", **vars(FAILURE)}


def test_a_question_that_failed_by_itself_counts_its_own_tries(tmp_path: Path) -> None:
    """Its answer, or its next failure, is a later try than the clip's."""
    at = desk(tmp_path)
    asked = message("a", "q1", "q2", failures=(FAILURE, replace(FAILURE, question_id="q3")))
    tries = {"q1": 5, "q3": 4}
    at.committer.add(replace(asked, clip=replace(asked.clip, question_attempts=tries)))
    at.committer.flush()
    assert {row["question_id"]: row["attempt"] for row in at.rows("answers")} == {"q1": 5, "q2": 2}
    assert {row["question_id"]: row["attempt"] for row in at.rows("failures")} == {None: 2, "q3": 4}


def test_it_commits_when_enough_rows_have_come_together(tmp_path: Path) -> None:
    """Answers and failures count alike; a clip's rows stay together."""
    at = desk(tmp_path, rows=4)
    at.committer.add(message("a", "q1", "q2"))
    at.committer.tick()
    at.committer.add(message("b", failures=(FAILURE,)))
    at.committer.tick()
    assert (at.rows("answers"), at.rows("failures")) == ([], [])
    at.committer.add(message("c", "q1", "q2"))
    at.committer.tick()
    assert at.answered() == [("video-a", "q1"), ("video-a", "q2"), ("video-c", "q1"), ("video-c", "q2")]
    assert len(at.rows("failures")) == 1
    at.committer.add(message("d", "q1", "q2"))
    at.committer.tick()
    assert len(at.rows("answers")) == 4
    assert (at.committer.answers_committed, at.committer.failures_committed) == (4, 1)


def test_it_commits_when_enough_seconds_have_passed(tmp_path: Path) -> None:
    """Since the last commit, however few rows wait; and writes nothing when none do."""
    at = desk(tmp_path, seconds=15)
    at.clock.now = 100
    at.committer.tick()
    assert at.storage.writes == 0
    at.committer.add(message("a", "q1"))
    at.committer.tick()  # 100 s since the start
    assert at.answered() == [("video-a", "q1")]
    at.committer.add(message("b", "q1"))
    at.clock.now = 114.9
    at.committer.tick()
    assert len(at.rows("answers")) == 1
    at.clock.now = 115
    at.committer.tick()
    assert at.answered() == [("video-a", "q1"), ("video-b", "q1")]


def test_a_flush_leaves_nothing_behind(tmp_path: Path) -> None:
    """Every row once, whatever was committed before; a second flush adds nothing."""
    at = desk(tmp_path, rows=3)
    expected = []
    for number in range(20):
        at.committer.add(message(f"{number:02}", "q1", "q2"))
        at.committer.tick()
        expected += [(f"video-{number:02}", "q1"), (f"video-{number:02}", "q2")]
    at.committer.flush()
    at.committer.flush()
    assert at.answered() == expected
    assert at.committer.answers_committed == 40


@pytest.mark.parametrize(("away_s", "kept"), [(590.0, True), (620.0, False)])
def test_the_last_flush_waits_ten_minutes_for_storage(tmp_path: Path, away_s: float, kept: bool) -> None:
    """A night's last answers are not lost for an outage that the run would have sat out an hour before."""
    at = desk(tmp_path)
    at.committer.add(message("a", "q1"))
    at.storage.away_until = at.clock.now + away_s
    if kept:
        at.committer.flush()
    else:
        with pytest.raises(StorageUnavailableError):
            at.committer.flush()
    assert at.clock.now <= 600
    assert at.answered() == ([("video-a", "q1")] if kept else [])


@pytest.mark.parametrize(("away_s", "kept"), [(590.0, True), (620.0, False)])
def test_a_run_sits_out_ten_minutes_without_storage(tmp_path: Path, away_s: float, kept: bool) -> None:
    """What storage does not take waits for a later tick, and what comes meanwhile with it; then the run ends."""
    at = desk(tmp_path, rows=1)
    at.storage.away_until = at.clock.now + away_s
    at.committer.add(message("a", "q1"))
    try:
        while at.clock.now < 650:
            at.committer.tick()
            at.clock.now += 1
            if at.clock.now == 300:
                at.committer.add(message("b", "q1"))
    except StorageUnavailableError:
        assert not kept
        assert 600 < at.clock.now < 610
        assert at.answered() == []
    else:
        assert kept
        assert at.answered() == [("video-a", "q1"), ("video-b", "q1")]


def test_an_interrupted_run_does_not_wait(tmp_path: Path) -> None:
    """Storage that is away costs it what waits, and no time."""
    at = desk(tmp_path)
    at.committer.add(message("a", "q1"))
    at.storage.away_until, before = at.clock.now + 60, at.clock.now
    with pytest.raises(StorageUnavailableError):
        at.committer.flush(patience_s=0)
    assert at.clock.now == before


def test_waiting_keeps_the_lease_alive(tmp_path: Path) -> None:
    """While one clip takes minutes there is nothing to commit, and the lease must not run out."""
    at = desk(tmp_path)
    for _ in range(10):
        at.clock.now += LEASE_SECONDS / 2
        at.committer.tick()
    assert len(at.storage.names("lease")) == 11


@pytest.mark.parametrize("seconds", [0.0, LEASE_SECONDS / 2])
def test_nothing_is_committed_without_the_lease(tmp_path: Path, seconds: float) -> None:
    """Whoever took over has it, also where ours was renewed just now; a run that only ticks is told when it renews."""
    at = desk(tmp_path, rows=1)
    at.committer.add(message("a", "q1"))
    at.committer.flush()
    other = {"run_id": "run-2", "host": "elsewhere", "pid": 1, "started": "1", "nonce": "n", "released": False}
    assert at.storage.create(f"lease/{at.lease.epoch + 1:08d}.json", json.dumps(other).encode())
    at.clock.now += seconds
    if seconds:
        with pytest.raises(OutputLockedError):
            at.committer.tick()
    at.committer.add(message("b", "q1", failures=(FAILURE,)))
    for commit in (at.committer.tick, at.committer.flush):
        with pytest.raises(OutputLockedError):
            commit()
    assert at.answered() == [("video-a", "q1")]
    assert at.rows("failures") == []
    assert at.committer.answers_committed == 1


def test_a_lease_that_is_lost_within_a_commit_ends_it(tmp_path: Path) -> None:
    """A commit of many objects may take longer than the lease lives: it is kept alive, or found lost, between them."""
    at = desk(tmp_path)
    for name in one_per_shard(3 * OBJECTS_AT_ONCE, "video-"):
        at.committer.add(message(name, "q1"))
    taken = {"run_id": "run-2", "host": "elsewhere", "pid": 1, "started": "1", "nonce": "n", "released": False}

    def take_over() -> None:
        at.storage.after_write = lambda: None
        at.clock.now += LEASE_SECONDS + 1
        assert at.storage.create(f"lease/{at.lease.epoch + 1:08d}.json", json.dumps(taken).encode())

    at.storage.after_write = take_over
    with pytest.raises(OutputLockedError):
        at.committer.flush()
    # Those of the first group that had not been written yet are not written any more.
    assert 1 <= len(at.answered()) <= OBJECTS_AT_ONCE


@pytest.mark.parametrize("broken_write", [1, 2, OBJECTS_AT_ONCE, OBJECTS_AT_ONCE + 1, 2 * OBJECTS_AT_ONCE + 1])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_commit_that_broke_off_half_way_is_repeated_not_doubled(
    tmp_path: Path, broken_write: int, moment: str
) -> None:
    """Some shards written, then storage fails; the run's last flush writes the rest, and each row once."""
    at = desk(tmp_path)
    names = one_per_shard(2 * OBJECTS_AT_ONCE, "video-")  # and one object of failures
    for name in names:
        at.committer.add(message(name, "q1", "q2"))
    at.committer.add(message("e", failures=(FAILURE,)))
    (at.storage.break_before if moment == "before" else at.storage.break_after).add(broken_write)
    with pytest.raises(TimeoutError):
        at.committer.flush()
    # None is on its way any more, and none behind those beside the broken one was begun.
    begun = min(-(-broken_write // OBJECTS_AT_ONCE) * OBJECTS_AT_ONCE, 2 * OBJECTS_AT_ONCE + 1)
    assert at.storage.ended == at.storage.writes == begun
    # What comes behind it is a commit of its own.
    at.committer.add(message("f", "q1"))
    at.committer.flush()
    answered = [(f"video-{name}", question) for name in names for question in ("q1", "q2")]
    assert at.answered() == [*answered, ("video-f", "q1")]
    assert len(at.rows("failures")) == 1
    assert (at.committer.answers_committed, at.committer.failures_committed) == (2 * len(names) + 1, 1)


def test_failures_hold_no_secrets(tmp_path: Path) -> None:
    """What signs a URL is neither in the path, nor in the message, nor in the traceback."""
    signed = "https://bucket.example/a.mp4?X-Amz-Signature=0123456789abcdef"
    storage = Storage(str(tmp_path))
    lease = Lease.acquire(storage, "run-1")
    committer = Committer(Ledger(storage, "print"), lease, CommitConfig())
    failure = Failure("probe", "UnreadableVideoError", "permanent", f"not a video: {signed}", f"Traceback ... {signed}")
    committer.add_failure(clip("a", video_path=signed), failure)
    committer.flush()
    (row,) = ds.dataset(tmp_path / "failures", format="parquet").to_table().to_pylist()
    assert row["video_path"] == "https://bucket.example/a.mp4?***"
    assert row["error_message"] == "not a video: https://bucket.example/a.mp4?***"
    assert "0123456789abcdef" not in str(row)


def test_a_driver_that_was_stopped_within_a_commit_looks_before_it_writes(tmp_path: Path) -> None:
    """Its lease still stands: the commit is repeated after a renewal, and no row is there twice."""
    one = desk(tmp_path, rows=1)
    one.storage.before_write = stopped_once(one, 96.0)
    one.committer.add(message("a", "q1", "q2"))
    one.committer.tick()
    assert one.answered() == []
    one.clock.now += 10.0
    one.committer.tick()
    assert one.answered() == [("video-a", "q1"), ("video-a", "q2")]


def test_a_driver_that_was_stopped_while_another_took_over_writes_nothing(tmp_path: Path) -> None:
    """What it was about to write is the other run's to make."""
    one = desk(tmp_path, rows=1)
    taken = json.dumps({"run_id": "run-2", "host": "elsewhere", "released": False}).encode()
    one.storage.before_write = stopped_once(
        one, 96.0, lambda: Storage(str(tmp_path)).create("lease/00000002.json", taken)
    )
    one.committer.add(message("a", "q1"))
    one.committer.tick()
    one.clock.now += 10.0
    with pytest.raises(OutputLockedError):
        one.committer.tick()
    assert one.answered() == []


def stopped_once(one: Desk, seconds: float, meanwhile: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """A stop of this process just before its first write."""
    left = [seconds]

    def stop() -> None:
        if left:
            one.clock.now += left.pop()
            meanwhile()

    return stop
