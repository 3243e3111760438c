"""How an output stands, read from its own tables: runs, lease, answers, failures. No cluster is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.store.lease import Holder
from pipeline.store.results import Results
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

State = Literal["running", "completed", "stopped", "lost"]


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one cause that no answer has superseded."""

    stage: str
    error_type: str
    error_kind: str
    count: int


@dataclass(frozen=True)
class OutputStatus:
    """How an output stands.

    Attributes:
        output: Its URL.
        state: Of the latest run: `running`; `completed`; `stopped` before its end, which it said; `lost`: it said
            nothing, and gives no sign of life.
        run_id: The latest run.
        started: When that was, in ISO 8601.
        host: Where its driver was started.
        fingerprint: Its `answers_fingerprint`.
        seconds_since_sign: Seconds since it renewed the lease; None if somebody else has taken it since.
        answers: Answers under the fingerprint, the latest of each.
        answers_total: Answers of the finished job, as the latest run that came to its end planned them; None before.
        failures: What failed and was not answered since, by cause, the most frequent first.
        runs: How many runs the output has seen.
        summary: How the latest run ended; None if it has not.
        held_by: A care command, or another run, that holds the lease now; None if nobody does.
    """

    output: str
    state: State
    run_id: str
    started: str
    host: str
    fingerprint: str
    seconds_since_sign: float | None
    answers: int
    answers_total: int | None
    failures: tuple[FailureGroup, ...]
    runs: int
    summary: Mapping[str, Any] | None
    held_by: str | None


def output_status(storage: Storage) -> OutputStatus:
    """Read how an output stands.

    Raises:
        ConfigurationError: no run has written to it.
        NewerFormatError: see `RunRecords.all`.
    """
    # The lease first: a run that ends meanwhile is then seen as one that ended, not as one that was lost.
    holder = Holder.of(storage)
    results, records = Results(storage), RunRecords(storage)
    record, ended = results.record, records.ended()
    same = [end for start, end in ended if start["answers_fingerprint"] == results.fingerprint]
    summary = next((end for start, end in ended if start["run_id"] == record["run_id"]), None)
    answers = results.answers(())
    causes = Counter((row["stage"], row["error_type"], row["error_kind"]) for row in results.failures(answers))
    own = holder if holder is not None and holder.run_id == record["run_id"] else None
    return OutputStatus(
        output=storage.url,
        state=_state(own, ended=summary is not None),
        run_id=record["run_id"],
        started=record["started"],
        host=record["host"],
        fingerprint=results.fingerprint,
        seconds_since_sign=own.seconds if own is not None else None,
        answers=len(answers),
        answers_total=same[-1]["answers_total"] if same else None,
        failures=tuple(FailureGroup(*cause, count) for cause, count in causes.most_common()),
        runs=len(records.all()),
        summary=summary,
        held_by=holder.run_id if holder is not None and own is None and holder.is_alive else None,
    )


def _state(holder: Holder | None, *, ended: bool) -> State:
    if ended:
        return "completed"
    if holder is not None and holder.is_alive:
        return "running"
    # A run that is over without an end released the lease on its way out, or somebody else has taken it since.
    return "lost" if holder is not None and not holder.released else "stopped"
