"""The log of a run as JSON lines: what happened to which clip and question, for a log collector to filter by.

Metrics say how much, `failures/` says what failed; the log says when. A line holds the time, the run's id, the event's
name and its fields. Texts come from libraries and from the job's own tables, so each is `redacted` on its way out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.clip import ClipMessage
from pipeline.plan.plan import PlanCounts
from pipeline.run.summary import RunSummary
from pipeline.store.redaction import redacted

_FAILURE_FIELDS = (
    "clip_id", "video_id", "question_id", "attempt", "stage", "error_type", "error_kind", "error_message",
)  # fmt: skip


class RunLog:
    """Writes the events of one run.

    Args:
        run_id: In every line.
        write: Takes a line, without its end.
        tell: Takes each notice, for the user.
        now: The time.
    """

    def __init__(
        self,
        run_id: str,
        write: Callable[[str], object],
        tell: Callable[[str], object] = lambda _: None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._run_id = run_id
        self._write = write
        self._tell = tell
        self._now = now

    def notice(self, sentence: str) -> None:
        """What the user is told, too."""
        self._tell(sentence)
        self._event("notice", message=sentence)

    def planned(self, counts: PlanCounts) -> None:
        """What there is to do."""
        self._event("planned", **asdict(counts))

    def clip(self, message: ClipMessage) -> None:
        """A clip has left the last stage with these questions answered."""
        clip, questions = message.clip, [answer["question_id"] for answer in message.answers]
        self._event("clip", clip_id=clip.clip_id, video_id=clip.video_id, attempt=clip.attempt, question_ids=questions)

    def committed(self, num_answers: int, failures: Sequence[Mapping[str, Any]]) -> None:
        """Rows are on storage: so many answers, and these failures, whose tracebacks are there only."""
        for row in failures:
            self._event("failure", **{name: row[name] for name in _FAILURE_FIELDS})
        self._event("committed", answers=num_answers, failures=len(failures))

    def ended(self, summary: RunSummary) -> None:
        """The run came to its end; a run that did not has no such line."""
        names = ("clips_planned", "cache_hits", "answers_new", "failures_new", "seconds")
        self._event("ended", **{name: getattr(summary, name) for name in names})

    def _event(self, name: str, **fields: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
        line = {"time": self._now().isoformat(timespec="milliseconds"), "run_id": self._run_id, "event": name, **fields}
        self._write(json.dumps(_clean(line), ensure_ascii=False))


def _clean(value: Any) -> Any:  # noqa: ANN401 - JSON
    """The same with every text redacted."""
    if isinstance(value, Mapping):
        return {name: _clean(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(inner) for inner in value]
    return redacted(value) if isinstance(value, str) else value
