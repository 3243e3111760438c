"""Read the status of an output from its own tables (runs, lease, answers, failures), without a cluster."""

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
    """The number of unresolved failures with one cause."""

    stage: str
    error_type: str
    error_kind: str
    count: int


@dataclass(frozen=True)
class OutputStatus:
    """The status of an output.

    Attributes:
        output: URL of the output.
        state: State of the latest run. `running`: its process is alive. `completed`: it wrote its end record.
            `stopped`: it ended early and released the lease, or another process has taken the lease since. `lost`: it
            neither ended nor released the lease, and no longer renews it.
        run_id: Id of the latest run.
        started: Start of the latest run, in ISO 8601.
        host: Host of its driver.
        fingerprint: The `answers_fingerprint` of the latest run.
        seconds_since_sign: Seconds since it renewed the lease; None if another process has taken the lease since.
        answers: Number of answers under the fingerprint, counting the latest version of each.
        answers_total: Number of answers of the finished job, as planned by the latest run under the fingerprint that
            ended; None if none has.
        failures: Unresolved failures by cause, the most frequent first.
        runs: Number of runs of the output.
        summary: End record of the latest run; None if it has none.
        held_by: Care command or other run that holds the lease now; None if there is none.
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
    """Read the status of an output.

    Raises:
        ConfigurationError: no run has written to it.
        NewerFormatError: see `RunRecords.all`.
    """
    # Read the lease first: a run that ends in the meantime is then reported as completed, not as lost.
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
    # Without an end record, the run either released the lease when it stopped, or another process has taken it since.
    return "lost" if holder is not None and not holder.released else "stopped"
