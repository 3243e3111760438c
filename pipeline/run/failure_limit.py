"""How much may fail before a run stops (`on_error`, `max_failures`)."""

from __future__ import annotations

from pipeline.clip import Clip, Failure
from pipeline.config import JobConfig
from pipeline.errors import TooManyFailuresError


class FailureLimit:
    """Counts the clips of a run that failed, wholly or in a question, against what the job allows.

    Args:
        job: With `on_error` and `max_failures`.
    """

    def __init__(self, job: JobConfig) -> None:
        self._stops_at_once = job.on_error == "raise"
        self._allowed = job.max_failures
        self._failed: set[str] = set()
        self._planned: int | None = None

    def planned(self, num_clips: int) -> None:
        """Say how many clips the run works on: only from now on is a share of them known.

        Raises:
            TooManyFailuresError: planning alone has found too many.
        """
        self._planned = num_clips
        self._check()

    def note(self, clip: Clip, failure: Failure) -> None:
        """Count a failure.

        Raises:
            TooManyFailuresError: it is one too many.
        """
        self._failed.add(clip.clip_id)
        if self._stops_at_once:
            raise TooManyFailuresError(
                f"on_error is raise, and in the {failure.stage} stage there was a {failure.error_type}: "
                f"{failure.error_message}",
                f"video_id {clip.video_id!r}",
            )
        self._check()

    def _check(self) -> None:
        allowed = self._allowed
        if allowed is None:
            return
        if allowed < 1:
            if self._planned is None:
                return
            allowed *= self._planned
        if len(self._failed) > allowed:
            of = "" if self._planned is None else f" of {self._planned}"
            raise TooManyFailuresError(
                f"{len(self._failed)} clips{of} failed, more than max_failures ({self._allowed:g}) allows; what is "
                "committed is kept, and the next run goes on from there"
            )
