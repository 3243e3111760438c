"""What the stages share: errors become values, and a clip that kills its processes is left alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest

from flashvid.errors import ConfigurationError, PermanentError
from pipeline.clip import ClipMessage
from pipeline.cluster.monitor import RunMonitor
from pipeline.errors import DiskError, SourceUnreachableError, StorageUnavailableError
from pipeline.stages.stage import Stage, StageSettings
from pipeline.store.tokens import TokenStore
from tests.support.helpers import clip, job, run_context


class Untouched(TokenStore):
    """Nothing is asked of it."""

    def __init__(self) -> None:
        """Without storage."""

    def take_traffic(self) -> dict[str, int]:
        """None."""
        return {}


class Desk(Stage):
    """A stage in this process, with the real monitor and no Ray between them."""

    name = "encode"

    def __init__(self, error: BaseException | None = None) -> None:
        self.monitor = RunMonitor(1)
        self.settings = StageSettings(run_context(job()), self.monitor, None)
        self.error = error
        self.processed = 0
        self.waited_s = 0.0
        self.tokens = Untouched()

    def tell(self, method: str, *arguments: object) -> Any:
        """Call the monitor directly."""
        return getattr(self.monitor, method)(*arguments)

    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """Fail as told, or count."""
        self.processed += 1
        if self.error is not None:
            raise self.error
        return message, {"done": 1}


def _run(stage: Stage, message: ClipMessage) -> ClipMessage:
    return ClipMessage.from_table(stage(message.to_table()))


def test_a_clip_that_killed_two_processes_is_not_touched_again() -> None:
    """The run sets it aside; alone, it is a permanent failure. Other clips are worked on."""
    desk = Desk()
    for _ in range(2):
        desk.monitor.begin("clip-a", "encode")  # what a process does before it dies
    outcome = _run(desk, ClipMessage(clip("a")))
    (failure,) = outcome.failures
    assert (failure.stage, failure.error_type, failure.error_kind) == ("encode", "SuspectedClipError", "transient")
    assert outcome.is_suspected
    assert desk.processed == 0

    alone = Desk()
    alone.settings = replace(alone.settings, alone=True)
    for _ in range(2):
        alone.monitor.begin("clip-a", "encode")
    outcome = _run(alone, ClipMessage(clip("a")))
    assert [(failure.error_type, failure.error_kind) for failure in outcome.failures] == [
        ("PoisonClipError", "permanent")
    ]
    assert not outcome.is_suspected
    assert _run(desk, ClipMessage(clip("b"))).failures == ()
    assert desk.monitor.activity().counts == {"done": 1}


@pytest.mark.parametrize(
    ("error", "kind"), [(PermanentError("broken"), "permanent"), (RuntimeError("out of memory"), "transient")]
)
def test_an_error_becomes_a_failure_of_its_clip(error: Exception, kind: str) -> None:
    """With its type, kind, message and traceback; a clip that has failed passes through untouched."""
    desk = Desk(error)
    outcome = _run(desk, ClipMessage(clip("a")))
    (failure,) = outcome.failures
    assert (failure.error_type, failure.error_kind, failure.error_message) == (type(error).__name__, kind, str(error))
    assert "in process" in failure.traceback
    assert _run(desk, outcome) == outcome
    assert desk.processed == 1


class Counter(Desk):
    """Works on clips together, unless one of them is `bad`."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[str]] = []
        self.deaths: list[int] = []

    def tell(self, method: str, *arguments: object) -> Any:
        """Note what is said of each clip that is begun alone."""
        told = super().tell(method, *arguments)
        if method == "begin":
            self.deaths.append(told)
        return told

    def process(self, message: ClipMessage) -> tuple[ClipMessage, Mapping[str, int]]:
        """One clip."""
        self.batches.append([message.clip.clip_id])
        if message.clip.clip_id == "clip-bad":
            raise RuntimeError("bad")
        return message, {"done": 1}

    def process_together(self, messages: Sequence[ClipMessage]) -> list[tuple[ClipMessage, Mapping[str, int]]]:
        """All of them or none."""
        self.batches.append([message.clip.clip_id for message in messages])
        if "clip-bad" in self.batches[-1]:
            raise RuntimeError("one of them is bad")
        return [(replace(message, answers=({"clip": message.clip.clip_id},)), {"done": 1}) for message in messages]


def _run_together(stage: Stage, messages: list[ClipMessage]) -> list[ClipMessage]:
    return ClipMessage.each_of(stage(pa.concat_tables([message.to_table() for message in messages])))


def test_clips_that_come_together_are_worked_on_together() -> None:
    """In their order; one that has failed before passes by."""
    counter = Counter()
    failed = _run(Desk(PermanentError("broken")), ClipMessage(clip("failed")))
    messages = [ClipMessage(clip("a")), failed, ClipMessage(clip("b"))]
    first, passed, last = _run_together(counter, messages)
    assert counter.batches == [["clip-a", "clip-b"]]
    assert (first.answers, last.answers) == (({"clip": "clip-a"},), ({"clip": "clip-b"},))
    assert passed == failed
    assert counter.monitor.activity().counts == {"done": 2}


def test_the_monitor_hears_which_actor_works() -> None:
    """Alone and in a batch; each counts once."""
    first, second = Counter(), Counter()
    second.monitor = first.monitor
    first.actor_id, second.actor_id = "x", "y"
    for counter in (first, first, second):
        _run(counter, ClipMessage(clip("a")))
    assert first.monitor.num_actors("encode") == 2
    third, messages = Counter(), [ClipMessage(clip("a")), ClipMessage(clip("b"))]
    for third.actor_id in ("x", "y"):
        _run_together(third, messages)
    assert third.monitor.num_actors("encode") == 2


def test_an_error_in_a_batch_is_the_failure_of_one_clip() -> None:
    """The others are worked on alone, and nobody is blamed for a death."""
    counter = Counter()
    outcomes = _run_together(counter, [ClipMessage(clip(name)) for name in ("a", "bad", "c")])
    assert counter.batches == [["clip-a", "clip-bad", "clip-c"], ["clip-a"], ["clip-bad"], ["clip-c"]]
    assert [len(outcome.failures) for outcome in outcomes] == [0, 1, 0]
    assert counter.deaths == [0, 0, 0]
    assert counter.monitor.begin_together(["clip-a", "clip-bad", "clip-c"], "encode")


def test_after_a_death_in_a_batch_each_clip_is_tried_alone() -> None:
    """Only the one that kills again is given up; Ray brings the whole batch again each time."""
    counter = Counter()
    messages = [ClipMessage(clip(name)) for name in "abc"]
    counter.monitor.begin_together(["clip-a", "clip-b", "clip-c"], "encode")  # the process dies in the batch
    counter.monitor.end("clip-a", "encode", {}, 0.0)  # the next one works on a,
    counter.monitor.begin("clip-b", "encode")  # and dies with b in its hands
    outcomes = _run_together(counter, messages)
    assert counter.batches == [["clip-a"], ["clip-c"]]
    assert [[failure.error_type for failure in outcome.failures] for outcome in outcomes] == [
        [],
        ["SuspectedClipError"],
        [],
    ]


def test_a_fatal_error_ends_the_run() -> None:
    """It is no row."""
    with pytest.raises(ConfigurationError):
        _run(Desk(ConfigurationError("no such setting")), ClipMessage(clip("a")))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
@pytest.mark.parametrize("is_wrapped", [False, True])
def test_a_full_or_read_only_disk_ends_the_run(number: int, is_wrapped: bool) -> None:
    """No clip is at fault, also where a library wraps the error."""
    met: Exception = OSError(number, os.strerror(number), "/staging/file")
    error = RuntimeError("a library's own words") if is_wrapped else met
    if is_wrapped:
        error.__cause__ = met
    with pytest.raises(DiskError, match=os.strerror(number)) as raised:
        _run(Desk(error), ClipMessage(clip("a")))
    assert raised.value.row == "/staging/file"


def test_an_unreadable_file_on_a_failing_disk_is_one_failure() -> None:
    """A bad sector of one video says nothing about the others."""
    outcome = _run(Desk(OSError(errno.EIO, os.strerror(errno.EIO), "/videos/a.mp4")), ClipMessage(clip("a")))
    assert [failure.error_kind for failure in outcome.failures] == ["transient"]


def test_a_videos_own_store_may_be_away_without_ending_the_run() -> None:
    """The error of the clip decides, not the one behind it, with which the whole run would end."""
    error = SourceUnreachableError("https://other/a.mp4 can't be fetched")
    error.__cause__ = StorageUnavailableError("no answer within 600 s", "https://other")
    outcome = _run(Desk(error), ClipMessage(clip("a")))
    assert [failure.error_type for failure in outcome.failures] == ["SourceUnreachableError"]
