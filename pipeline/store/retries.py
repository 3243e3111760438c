"""Read and write `retries/`: requests of the user to retry failures.

The failures stay in the ledger; the planner ignores the ones that a request covers.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.store.json_record import check_name, read_record
from pipeline.store.results import Results
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

FOLDER = "retries"
_KEYS = {"requested": str, "kind": str | None, "error_type": str | None, "stage": str | None}


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
    """Return all requests of an output.

    Raises:
        DamagedObjectError: a request can't be read.
    """
    return [read_retry(storage, name) for name in storage.names(FOLDER)]


def read_retry(storage: Storage, name: str) -> RetryRequest:
    """Return one request by the name of its object.

    Raises:
        DamagedObjectError: it can't be read.
    """
    record = read_record(storage, name, _KEYS)
    check_name(storage, name, f"{FOLDER}/{record['requested']}.json")
    return RetryRequest(**{key: record[key] for key in _KEYS})


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
        storage.add(f"{FOLDER}/{request.requested}.json", json.dumps(asdict(request)).encode())
    return covered
