"""Hold what every part of a run needs: the job, its fingerprints, its output and its run id."""

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
    """The context of one run, sent to each of its processes.

    Attributes:
        job: The job.
        prints: Fingerprints of the job.
        storage: The output. Each process that receives the context counts its own traffic.
        run_id: Id of the run, made by `new_run_id`.
    """

    job: JobConfig
    prints: Fingerprints
    storage: Storage
    run_id: str

    @classmethod
    def of(cls, job: JobConfig, model: ModelSource) -> Self:
        """Return the context of a new run of a job with this resolved model."""
        storage = Storage(job.output, job.storage_options)
        return cls(job, fingerprints(job, model.identity, model.family), storage, new_run_id())

    @property
    def ledger(self) -> Ledger:
        """Return the answers and failures under the run's `answers_fingerprint`."""
        return Ledger(self.storage, self.prints.answers)

    def token_store(self) -> TokenStore:
        """Return the compressed tokens under the run's `tokens_fingerprint`."""
        storage = Storage(self.job.tokens_root, self.job.storage_options)
        return TokenStore(storage, self.prints.tokens, self.job.cache_dtype)
