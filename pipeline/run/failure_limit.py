"""Stops a run that fails more than the job allows (`on_error`, `max_failures`)."""

from pipeline.clip import Clip, Failure
from pipeline.config import JobConfig
from pipeline.errors import TooManyFailuresError


class FailureLimit:
    """Counts the clips of a run that failed, wholly or in a question, against what the job allows.

    Args:
        job: Job with the settings `on_error` and `max_failures`.
    """

    def __init__(self, job: JobConfig) -> None:
        self._stops_at_once = job.on_error == "raise"
        self._allowed = job.max_failures
        self._failed: set[str] = set()
        self._planned: int | None = None

    def planned(self, num_clips: int) -> None:
        """Set the number of clips that the run works on, and check failures so far.

        `max_failures` below 1 is a share of this number, so it applies only from here on.

        Raises:
            TooManyFailuresError: planning alone found more failures than allowed.
        """
        self._planned = num_clips
        self._check()

    def note(self, clip: Clip, failure: Failure) -> None:
        """Count a failure.

        Raises:
            TooManyFailuresError: more clips have failed than the job allows.
        """
        self._failed.add(clip.clip_id)
        if self._stops_at_once:
            raise TooManyFailuresError(
                f"on_error is raise, and the {failure.stage} stage failed with {failure.error_type}: "
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
                f"{len(self._failed)} clips{of} failed, more than max_failures ({self._allowed:g}) allows; see the "
                "output's failures/ for the causes; committed answers are kept, and the next run continues from them"
            )
