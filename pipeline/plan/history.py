"""Answers the planner's queries about what earlier runs answered and what failed in them. Pure: committed keys in."""

from collections.abc import Iterable, Mapping

from pipeline.clip import AnswerKey, FailureKey
from pipeline.errors import QuestionChangedError
from pipeline.inputs.questions import Question

PLAN_STAGE = "plan"
_SPAN_COLUMNS = frozenset({"start_s", "end_s"})

# `clip_id`, `question_id` or None for the whole clip, `question_hash` or None if it is unknown.
_What = tuple[str, str | None, str | None]


class AnswerHistory:
    """Looks up which questions are answered, and for which question text.

    Args:
        answered: Committed answers.

    Attributes:
        answered_in: `run_id` of the latest run that answered a question of a clip, by `clip_id`. Run ids sort by start
            time.
    """

    def __init__(self, answered: Iterable[AnswerKey]) -> None:
        self._keys: set[tuple[str, str, str]] = set()
        self._hashes: dict[tuple[str, str], str] = {}
        self._everywhere: dict[str, set[str]] = {}
        self.answered_in: dict[str, str] = {}
        for key in answered:
            self.answered_in[key.clip_id] = max(self.answered_in.get(key.clip_id, ""), key.run_id)
            self._keys.add((key.clip_id, key.question_id, key.question_hash))
            self._everywhere.setdefault(key.question_id, set()).add(key.question_hash)
            for owner in (key.video_id, key.clip_id):
                self._hashes[owner, key.question_id] = key.question_hash

    def check(self, common: Iterable[Question]) -> None:
        """Check that each question without columns has the text that its answers for any video were given to.

        Args:
            common: Questions asked of every video. Each needs one text, also for videos without an answer yet.

        Raises:
            QuestionChangedError: a question has an answer to another text or other options.
        """
        for question in common:
            wanted = question.fixed_hash
            if wanted is not None and wanted not in self._everywhere.get(question.question_id, {wanted}):
                raise QuestionChangedError(
                    "its answers for other videos were given to another text or other options; give the changed "
                    "question a new question_id",
                    f"question_id {question.question_id!r}",
                )

    def has(self, video_id: str, clip_id: str, question: Question, wanted: str) -> bool:
        """Return whether a clip has an answer to a question.

        Args:
            video_id: Id of the clip's video.
            clip_id: Id of the clip.
            question: The question.
            wanted: `question_hash` of the question as rendered for the clip.

        Raises:
            QuestionChangedError: the video has an answer to another text under this `question_id`.
        """
        # The text of a question that uses the span differs between the windows of a video, so it is compared by clip.
        owner = clip_id if _SPAN_COLUMNS & question.columns else video_id
        if self._hashes.get((owner, question.question_id), wanted) != wanted:
            raise QuestionChangedError(
                f"its answers for video_id {video_id!r} were given to another text: the question, its options, or a "
                f"column that it uses has changed; give the changed question a new question_id",
                f"question_id {question.question_id!r}",
            )
        return (clip_id, question.question_id, wanted) in self._keys


class FailureHistory:
    """Looks up what failed in earlier runs and whether to retry it; a clip's later answer supersedes its failures.

    A failure is of a whole clip (no `question_id`) or of one question as rendered for the clip (`question_hash`).
    Failures written by older versions have no `question_hash` and count for every text of the question.

    Args:
        failures: Committed failures.
        answered_in: Latest run that answered a question of each clip, as in `AnswerHistory`.
        max_attempts: Attempts allowed while failures are transient.
    """

    def __init__(self, failures: Iterable[FailureKey], answered_in: Mapping[str, str], max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._of_rows: set[tuple[str, str | None]] = set()
        self._permanent: set[_What] = set()
        self._attempts: dict[_What, int] = {}
        self._forgiven: dict[_What, int] = {}
        for failure in failures:
            if failure.stage == PLAN_STAGE:
                # The row was at fault, and planning checks again whether it still is.
                self._of_rows.add((failure.clip_id, failure.question_id))
                continue
            if failure.question_id is None and failure.run_id < answered_in.get(failure.clip_id, ""):
                continue
            what = (failure.clip_id, failure.question_id, failure.question_hash)
            if failure.retried:
                self._forgiven[what] = max(self._forgiven.get(what, 0), failure.attempt)
            elif failure.error_kind == "permanent":
                self._permanent.add(what)
            self._attempts[what] = max(self._attempts.get(what, 0), failure.attempt)

    def attempts(self, clip: str, question_id: str | None = None, asked: str | None = None) -> int:
        """Return the number of failed attempts at a clip, or at one of its questions.

        Args:
            clip: Id of the clip.
            question_id: Id of the question; None for the whole clip.
            asked: `question_hash` of the question as rendered for the clip.
        """
        return max(self._attempts.get(what, 0) for what in _known_as(clip, question_id, asked))

    def is_noted(self, clip: str, question_id: str) -> bool:
        """Return whether an earlier plan recorded that the question can't be asked of the clip."""
        return (clip, question_id) in self._of_rows

    def is_exhausted(self, clip: str, question_id: str | None = None, asked: str | None = None) -> bool:
        """Return whether a clip, or one of its questions, must not be retried.

        Args:
            clip: Id of the clip.
            question_id: Id of the question; None for the whole clip.
            asked: `question_hash` of the question as rendered for the clip.
        """
        return any(
            what in self._permanent or self._attempts.get(what, 0) - self._forgiven.get(what, 0) >= self._max_attempts
            for what in _known_as(clip, question_id, asked)
        )


def _known_as(clip: str, question_id: str | None, asked: str | None) -> set[_What]:
    return {(clip, question_id, asked), (clip, question_id, None)}
