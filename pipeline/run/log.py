"""Writes the log of a run as JSON lines: what happened to which clip and question, so that log collectors can filter.

Metrics say how much was done, `failures/` says what failed, and the log says when. A line holds the time, the run's id,
the event's name and its fields. Texts may come from libraries and from the job's tables, so every text is
`redacted`, and characters that act on a terminal are escaped.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pipeline.clip import ClipMessage
from pipeline.plan.plan import PlanCounts
from pipeline.printable import printable_json
from pipeline.redaction import redacted_values
from pipeline.run.summary import RunSummary

_FAILURE_FIELDS = (
    "clip_id", "video_id", "question_id", "attempt", "stage", "error_type", "error_kind", "error_message",
)  # fmt: skip


class RunLog:
    """Writes the events of one run.

    Args:
        run_id: Id of the run, part of every line.
        write: Function that writes a line, given without its line end.
        tell: Function that shows a notice to the user.
        now: Function that returns the time.
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
        """Show a notice to the user and log it."""
        self._tell(sentence)
        self._event("notice", message=sentence)

    def planned(self, counts: PlanCounts) -> None:
        """Log the counts of the plan."""
        self._event("planned", **asdict(counts))

    def clip(self, message: ClipMessage) -> None:
        """Log that a clip has left the last stage, and which of its questions were answered."""
        clip, questions = message.clip, [answer["question_id"] for answer in message.answers]
        self._event("clip", clip_id=clip.clip_id, video_id=clip.video_id, attempt=clip.attempt, question_ids=questions)

    def committed(self, num_answers: int, failures: Sequence[Mapping[str, Any]]) -> None:
        """Log a commit: each failure without its traceback, and the numbers of answers and failures.

        Args:
            num_answers: Number of committed answers.
            failures: Committed rows of `failures/`.
        """
        for row in failures:
            self._event("failure", **{name: row[name] for name in _FAILURE_FIELDS})
        self._event("committed", answers=num_answers, failures=len(failures))

    def ended(self, summary: RunSummary) -> None:
        """Log that the run has ended; a run that stopped early has no such line."""
        names = ("clips_planned", "cache_hits", "answers_new", "failures_new", "seconds")
        self._event("ended", **{name: getattr(summary, name) for name in names})

    def _event(self, name: str, **fields: Any) -> None:  # noqa: ANN401 - any JSON value
        line = {"time": self._now().isoformat(timespec="milliseconds"), "run_id": self._run_id, "event": name, **fields}
        self._write(printable_json(redacted_values(line)))
