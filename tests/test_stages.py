"""What the stages share: errors become values, and a clip that kills its processes is left alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from flashvid.errors import ConfigurationError, PermanentError
from pipeline.messages import ClipMessage
from pipeline.monitor import RunMonitor
from pipeline.stages.stage import Stage
from tests.helpers import clip


class Desk(Stage):
    """A stage in this process, with the real monitor and no Ray between them."""

    name = "encode"

    def __init__(self, error: BaseException | None = None) -> None:
        self.monitor = RunMonitor(1)
        self.error = error
        self.processed = 0
        self.waited_s = 0.0

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
    """It becomes a transient failure; other clips are worked on."""
    desk = Desk()
    for _ in range(2):
        desk.monitor.begin("clip-a", "encode")  # what a process does before it dies
    (failure,) = _run(desk, ClipMessage(clip("a"))).failures
    assert (failure.stage, failure.error_type, failure.error_kind) == ("encode", "WorkerDiedError", "transient")
    assert desk.processed == 0
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


def test_a_fatal_error_ends_the_run() -> None:
    """It is no row."""
    with pytest.raises(ConfigurationError):
        _run(Desk(ConfigurationError("no such setting")), ClipMessage(clip("a")))
