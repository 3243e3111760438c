"""What earlier runs have answered and what has failed, as planning asks for it. Pure: committed keys in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipeline.clip import AnswerKey, FailureKey
from pipeline.errors import QuestionChangedError
from pipeline.inputs import Question

PLAN_STAGE = "plan"
_SPAN_COLUMNS = frozenset({"start_s", "end_s"})

# A clip, a question of it or None, the question's words or None.
_What = tuple[str, str | None, str | None]


class AnswerHistory:
    """What is answered, and to which text.

    Args:
        answered: Committed answers.

    Attributes:
        answered_in: The latest run, by `clip_id`, that gave an answer; runs are named in the order they began.
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
        """A question for all videos, without columns, has one text: also for videos that it has not been put to yet.

        Raises:
            QuestionChangedError: it has an answer to another text.
        """
        for question in common:
            wanted = question.fixed_hash
            if wanted is not None and wanted not in self._everywhere.get(question.question_id, {wanted}):
                raise QuestionChangedError(
                    "its answers for other videos were given to another text or other options; give the new question a "
                    "question_id of its own",
                    f"question_id {question.question_id!r}",
                )

    def has(self, video_id: str, clip_id: str, question: Question, wanted: str) -> bool:
        """Whether a clip has an answer to this question.

        Args:
            video_id: The clip's video.
            clip_id: The clip.
            question: The question.
            wanted: `question_hash` of what the clip would be asked.

        Raises:
            QuestionChangedError: the video has an answer to another text under this id.
        """
        # A question that names the span has a text for each window of a video.
        owner = clip_id if _SPAN_COLUMNS & question.columns else video_id
        if self._hashes.get((owner, question.question_id), wanted) != wanted:
            raise QuestionChangedError(
                f"its answers for video_id {video_id!r} were given to another text (the question, its options, "
                f"or a column it uses has changed); give the new question a question_id of its own",
                f"question_id {question.question_id!r}",
            )
        return (clip_id, question.question_id, wanted) in self._keys


class FailureHistory:
    """What failed in earlier runs, and whether it may be tried again. A later answer of a clip supersedes its failures.

    What failed is a clip (without a `question_id`), or a question put to it in certain words (`question_hash`); older
    failures do not tell the words, and count for any.

    Args:
        failures: Committed failures.
        answered_in: See `AnswerHistory`.
        max_attempts: Tries of a transient failure.
    """

    def __init__(self, failures: Iterable[FailureKey], answered_in: Mapping[str, str], max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._of_rows: set[tuple[str, str | None]] = set()
        self._permanent: set[_What] = set()
        self._attempts: dict[_What, int] = {}
        self._forgiven: dict[_What, int] = {}
        for failure in failures:
            if failure.stage == PLAN_STAGE:
                # The row itself was at fault: planning sees for itself whether it still is.
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
        """Tries so far of a clip, or of one question of it in these words, that failed."""
        return max(self._attempts.get(what, 0) for what in _known_as(clip, question_id, asked))

    def is_noted(self, clip: str, question_id: str) -> bool:
        """Whether an earlier plan has recorded that a row can't be asked this question."""
        return (clip, question_id) in self._of_rows

    def is_exhausted(self, clip: str, question_id: str | None = None, asked: str | None = None) -> bool:
        """Whether a clip, or one question of it in these words, is not to be tried again."""
        return any(
            what in self._permanent or self._attempts.get(what, 0) - self._forgiven.get(what, 0) >= self._max_attempts
            for what in _known_as(clip, question_id, asked)
        )


def _known_as(clip: str, question_id: str | None, asked: str | None) -> set[_What]:
    return {(clip, question_id, asked), (clip, question_id, None)}
