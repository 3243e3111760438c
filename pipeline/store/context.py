"""What every part of a run is given: the job, its fingerprints, its output and its name."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.config import JobConfig
from pipeline.store.fingerprint import Fingerprints
from pipeline.store.ledger import Ledger
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore


@dataclass(frozen=True)
class RunContext:
    """A run, wherever one of its processes works on it.

    Attributes:
        job: The job.
        prints: Its fingerprints.
        storage: Its output. A process that receives the context counts its own traffic.
        run_id: The run; see `new_run_id`.
    """

    job: JobConfig
    prints: Fingerprints
    storage: Storage
    run_id: str

    @property
    def ledger(self) -> Ledger:
        """The answers and failures under the run's `answers_fingerprint`."""
        return Ledger(self.storage, self.prints.answers)

    def token_store(self) -> TokenStore:
        """The compressed tokens under the run's `tokens_fingerprint`."""
        storage = Storage(self.job.tokens_root, self.job.storage_options)
        return TokenStore(storage, self.prints.tokens, self.job.cache_dtype)
