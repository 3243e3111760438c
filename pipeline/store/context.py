"""What every part of a run is given: the job, its fingerprints, its output and its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from flashvid.models import ModelSource
from pipeline.config import JobConfig
from pipeline.store.fingerprint import Fingerprints, fingerprints
from pipeline.store.ledger import Ledger
from pipeline.store.run_records import new_run_id
from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore


@dataclass(frozen=True)
class RunContext:
    """A run, wherever one of its processes works on it.

    Attributes:
        job: The job.
        prints: Its fingerprints.
        storage: Its output. A process that receives the context counts its own traffic.
        run_id: Its name; see `new_run_id`.
    """

    job: JobConfig
    prints: Fingerprints
    storage: Storage
    run_id: str

    @classmethod
    def of(cls, job: JobConfig, model: ModelSource) -> Self:
        """A new run of a job, with the model that was found for it."""
        storage = Storage(job.output, job.storage_options)
        return cls(job, fingerprints(job, model.identity, model.family), storage, new_run_id())

    @property
    def ledger(self) -> Ledger:
        """The answers and failures under the run's `answers_fingerprint`."""
        return Ledger(self.storage, self.prints.answers)

    def token_store(self) -> TokenStore:
        """The compressed tokens under the run's `tokens_fingerprint`."""
        storage = Storage(self.job.tokens_root, self.job.storage_options)
        return TokenStore(storage, self.prints.tokens, self.job.cache_dtype)
