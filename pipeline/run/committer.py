"""Commits answers and failures in batches under the lease; nothing else writes them."""

import time
from collections.abc import Callable, Sequence

from pipeline.clip import Clip, ClipMessage, Failure
from pipeline.config import CommitConfig
from pipeline.errors import StorageUnavailableError
from pipeline.redaction import redacted
from pipeline.store.lease import Lease
from pipeline.store.ledger import Ledger
from pipeline.store.parquet import Row

# While the object store does not answer, rows wait in memory; after this many seconds, the run ends.
_PATIENCE_S = 600.0
_PAUSE_S = 5.0


class Committer:
    """Buffers rows and commits them after the number of rows or seconds in `CommitConfig`.

    Args:
        ledger: Ledger to commit to.
        lease: Lease that this process holds.
        config: Number of rows and seconds after which to commit.
        clock: Function that returns the time in seconds.
        sleep: Function that sleeps for a number of seconds.
        on_commit: Called after each commit with the number of its answers and the rows of its failures.
        on_failure: Called with each failure when it is added, and its clip; may raise to stop the run.
    """

    def __init__(
        self,
        ledger: Ledger,
        lease: Lease,
        config: CommitConfig,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_commit: Callable[[int, Sequence[Row]], object] = lambda *_: None,
        on_failure: Callable[[Clip, Failure], object] = lambda *_: None,
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._config = config
        self._clock = clock
        self._sleep = sleep
        self._on_commit = on_commit
        self._on_failure = on_failure
        self._answers: list[Row] = []
        self._failures: list[Row] = []
        # Answers and failures of a commit that has started and not succeeded yet.
        self._unfinished: tuple[list[Row], list[Row]] | None = None
        self._last_commit = self._reached_at = self._try_again_at = clock()
        self._parts = 0
        self.answers_committed = 0
        self.failures_committed = 0

    def add(self, message: ClipMessage) -> None:
        """Add a clip's answers and failures to the next commit."""
        clip = message.clip
        for answer in message.answers:
            self._answers.append(
                {
                    **clip.identity(),
                    **answer,
                    "attempt": clip.attempt_of(answer["question_id"]),
                    "run_id": self._lease.run_id,
                }
            )
        for failure in message.failures:
            self.add_failure(clip, failure)

    def add_failure(self, clip: Clip, failure: Failure) -> None:
        """Add a failure to the next commit; failures of planning and probing are added without a message."""
        self._failures.append(
            {
                **clip.identity(),
                "video_path": redacted(clip.video_path or "") or None,
                **vars(failure),
                "error_message": redacted(failure.error_message),
                "traceback": redacted(failure.traceback),
                "attempt": clip.attempt_of(failure.question_id),
                "run_id": self._lease.run_id,
            }
        )
        self._on_failure(clip, failure)

    def tick(self) -> None:
        """Commit if enough rows or seconds have accumulated, and keep the lease alive.

        If storage does not answer, a later tick tries again.

        Raises:
            OutputLockedError: another run has taken the lease; nothing more is written.
            StorageUnavailableError: storage has not answered for `_PATIENCE_S` seconds.
        """
        waiting = len(self._answers) + len(self._failures)
        due = waiting >= self._config.rows or (waiting and self._clock() - self._last_commit >= self._config.seconds)
        if self._clock() < self._try_again_at:
            return
        try:
            if due or self._unfinished is not None:
                self._commit()
            else:
                self._lease.keep_alive()
        except StorageUnavailableError:
            if self._clock() - self._reached_at > _PATIENCE_S:
                raise
            self._try_again_at = self._clock() + _PAUSE_S
        else:
            self._reached_at = self._clock()

    def flush(self, patience_s: float = _PATIENCE_S) -> None:
        """Commit all rows that wait.

        Args:
            patience_s: Seconds for which to retry if storage does not answer.

        Raises:
            OutputLockedError: another run has taken the lease; nothing more is written.
            StorageUnavailableError: storage did not answer; the next flush repeats the unfinished commit.
        """
        until = self._clock() + patience_s
        while True:
            try:
                if self._unfinished is not None:
                    self._commit()
                return self._commit()
            except StorageUnavailableError:
                if self._clock() + _PAUSE_S > until:
                    raise
            self._sleep(_PAUSE_S)

    def _commit(self) -> None:
        self._lease.check()
        # A commit that failed half-way is repeated with the same names and the same rows, so no row is committed twice.
        if self._unfinished is None:
            # The epoch of this try, because a repeated one must write the same bytes.
            self._unfinished = [{**row, "epoch": self._lease.epoch} for row in self._answers], self._failures
            self._answers, self._failures = [], []
        (answers, failures), part = self._unfinished, f"{self._lease.run_id}-{self._parts + 1:05d}"
        lease = self._lease
        self._ledger.append_answers(answers, part, confirm=lease.keep_alive, just_before=lease.check_deadline)
        lease.keep_alive()
        self._ledger.append_failures(failures, part, just_before=lease.check_deadline)
        self.answers_committed += len(answers)
        self.failures_committed += len(failures)
        self._on_commit(len(answers), failures)
        self._parts += 1
        self._unfinished = None
        self._last_commit = self._clock()
