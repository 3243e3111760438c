"""`retries/`: what a person asked to be tried again. Failures stay in the ledger; planning no longer counts these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.store.results import Results
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

_FOLDER = "retries"


@dataclass(frozen=True)
class RetryRequest:
    """Failures of runs that had started when this was asked, all or those that match.

    Attributes:
        requested: A `new_run_id`: earlier runs have smaller ones.
        kind: `error_kind`; None for any.
        error_type: Class name of the error; None for any.
        stage: Where it happened; None for any.
    """

    requested: str
    kind: str | None = None
    error_type: str | None = None
    stage: str | None = None

    def covers(self, failure: Mapping[str, Any]) -> bool:
        """Whether a row of `failures/` is to be tried again."""
        return (
            failure["run_id"] < self.requested
            and self.kind in (None, failure["error_kind"])
            and self.error_type in (None, failure["error_type"])
            and self.stage in (None, failure["stage"])
        )


def read_retries(storage: Storage) -> list[RetryRequest]:
    """Every request so far."""
    return [RetryRequest(**json.loads(storage.read(name))) for name in storage.names(_FOLDER)]


def request_retry(storage: Storage, request: RetryRequest) -> int:
    """Have failures tried again by the next run, whatever fingerprint they belong to.

    Returns:
        Failures that no answer has superseded, which the request covers and no earlier one did: of every clip and
        question the latest. Nothing is written if there are none.

    Raises:
        ConfigurationError: the output has no failures at all: probably another folder was meant.
        NewerFormatError: see `RunRecords.all`.
    """
    RunRecords(storage).all()  # of a later format: nothing is written into it
    names = storage.names("failures")
    if not names:
        raise ConfigurationError("has no failures", storage.url)
    earlier = read_retries(storage)
    covered = 0
    for fingerprint in sorted({name.split("/")[1].removeprefix("fingerprint=") for name in names}):
        results = Results(storage, fingerprint)
        for row in results.failures(results.answers(columns=())):
            covered += request.covers(row) and not any(other.covers(row) for other in earlier)
    if covered:
        storage.add(f"{_FOLDER}/{request.requested}.json", json.dumps(asdict(request)).encode())
    return covered
