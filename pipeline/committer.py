"""The only writer of answers and failures: collects outcomes, commits them in batches under the lease."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config import CommitConfig
from pipeline.lease import Lease
from pipeline.ledger import Ledger
from pipeline.messages import ClipMessage, Failure
from pipeline.planning import Clip


class Committer:
    """Buffers rows until `CommitConfig` says to write them."""

    def __init__(
        self, ledger: Ledger, lease: Lease, config: CommitConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ledger = ledger
        self._lease = lease
        self._config = config
        self._clock = clock
        self._answers: list[Mapping[str, Any]] = []
        self._failures: list[Mapping[str, Any]] = []
        self._last_commit = clock()
        self._parts = 0
        self.answers_committed = 0
        self.failures_committed = 0

    def add(self, message: ClipMessage) -> None:
        """Take over a clip's answers and failures."""
        clip = message.clip
        for answer in message.answers:
            self._answers.append(
                {
                    "clip_id": clip.clip_id,
                    "video_id": clip.video_id,
                    "source_id": clip.source_id,
                    "start_s": clip.start_s,
                    "end_s": clip.end_s,
                    **answer,
                    "attempt": clip.attempt,
                    "run_id": self._lease.run_id,
                }
            )
        for failure in message.failures:
            self.add_failure(clip, failure)

    def add_failure(self, clip: Clip, failure: Failure) -> None:
        """Take over a failure that no message carries (found while probing or planning)."""
        self._failures.append(
            {
                "clip_id": clip.clip_id,
                "video_id": clip.video_id,
                "video_path": clip.video_path,
                **vars(failure),
                "attempt": clip.attempt,
                "run_id": self._lease.run_id,
            }
        )

    def tick(self) -> None:
        """Commit if enough rows or seconds have come together; keep the lease alive in any case."""
        waiting = len(self._answers) + len(self._failures)
        if waiting >= self._config.rows or (waiting and self._clock() - self._last_commit >= self._config.seconds):
            self.flush()
        else:
            self._lease.keep_alive()

    def flush(self) -> None:
        """Commit everything that waits.

        Raises:
            OutputLockedError: another run has taken the lease; nothing was written.
        """
        self._lease.check()
        # Counted up only afterwards: a commit that failed half-way is repeated under the same names, never twice.
        part = f"{self._lease.run_id}-{self._parts + 1:05d}"
        self._ledger.append_answers(self._answers, part)
        self._ledger.append_failures(self._failures, part)
        self.answers_committed += len(self._answers)
        self.failures_committed += len(self._failures)
        self._parts += 1
        self._answers, self._failures = [], []
        self._last_commit = self._clock()
