"""Read and write `retries/`: requests of the user to retry failures.

The failures stay in the ledger; the planner ignores the ones that a request covers.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.store.json_record import read_record
from pipeline.store.results import Results
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

_FOLDER = "retries"


@dataclass(frozen=True)
class RetryRequest:
    """A request to retry failures of runs that started before it: all failures, or the ones that match.

    Attributes:
        requested: Id from `new_run_id`; runs that started earlier have smaller ids.
        kind: `error_kind` of the failures; None for any.
        error_type: Class name of the error; None for any.
        stage: Stage of the failures; None for any.
    """

    requested: str
    kind: str | None = None
    error_type: str | None = None
    stage: str | None = None

    def covers(self, failure: Mapping[str, Any]) -> bool:
        """Return whether the request covers a row of `failures/`."""
        return (
            failure["run_id"] < self.requested
            and self.kind in (None, failure["error_kind"])
            and self.error_type in (None, failure["error_type"])
            and self.stage in (None, failure["stage"])
        )


def read_retries(storage: Storage) -> list[RetryRequest]:
    """Return all requests of an output."""
    return [RetryRequest(**read_record(storage, name)) for name in storage.names(_FOLDER)]


def request_retry(storage: Storage, request: RetryRequest) -> int:
    """Request that the next run retries failures, under every fingerprint of the output.

    Returns:
        The number of unresolved failures that this request covers and no earlier one does, counting the latest of each
        clip and question. If it is 0, nothing is written.

    Raises:
        ConfigurationError: the output has no failures at all; probably the path is wrong.
        NewerFormatError: see `RunRecords.all`.
    """
    RunRecords(storage).all()  # raises for a later format, before anything is written
    names = storage.names("failures")
    if not names:
        raise ConfigurationError("has no failures to retry: check the path of the output", storage.url)
    earlier = read_retries(storage)
    covered = 0
    for fingerprint in sorted({name.split("/")[1].removeprefix("fingerprint=") for name in names}):
        results = Results(storage, fingerprint)
        for row in results.failures(results.answers(columns=())):
            covered += request.covers(row) and not any(other.covers(row) for other in earlier)
    if covered:
        storage.add(f"{_FOLDER}/{request.requested}.json", json.dumps(asdict(request)).encode())
    return covered
