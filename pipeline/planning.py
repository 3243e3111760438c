"""The plan: (clips x questions) minus what is committed. Pure: snapshots in, decisions out.

Nothing here knows Ray or storage; the cross product is walked clip by clip and never held.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace

from pipeline.errors import InputRowError, QuestionChangedError
from pipeline.inputs import Question, QuestionTable, Video
from pipeline.keys import clip_id, content_key, digest, question_hash
from pipeline.ledger import AnswerKey, FailureKey
from pipeline.sources import Source

PLAN_STAGE = "plan"
_SPAN_COLUMNS = frozenset({"start_s", "end_s"})


@dataclass(frozen=True)
class Clip:
    """The unit of work: one span of one video, with the questions that still need an answer.

    Attributes:
        clip_id: Derived from the video and `content_key`.
        video_id: The row it comes from.
        content_key: Cache key of its tokens.
        source_id: What the bytes are.
        video_path: Where they are; None if the row does not say.
        start_s: Start in seconds, None for the beginning.
        end_s: End in seconds, None for the end.
        question_ids: Questions to answer, as ids: the texts travel once, not once a clip.
        columns: Columns of the video's row that the questions use.
        attempt: 1 for the first try of the clip, counted over runs.
        question_attempts: The same of questions that failed before by themselves.
        problem: Why the row can't be used (see `Video.problem`).
        unreachable: Why storage could not say what the bytes are (see `Source.unreachable`).
    """

    clip_id: str
    video_id: str
    content_key: str
    source_id: str
    video_path: str | None
    start_s: float | None
    end_s: float | None
    question_ids: tuple[str, ...] = ()
    columns: Mapping[str, str | None] = field(default_factory=dict)
    attempt: int = 1
    question_attempts: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None
    unreachable: str | None = None

    def attempt_of(self, question_id: str | None) -> int:
        """Which try this is: of a question, or of the clip (None)."""
        return self.attempt if question_id is None else self.question_attempts.get(question_id, self.attempt)

    @property
    def is_tried_again(self) -> bool:
        """Whether the clip or one of its questions has failed before."""
        return self.attempt > 1 or bool(self.question_attempts)


@dataclass(frozen=True)
class RowFailure:
    """A question that can't be put to a clip, found while planning."""

    clip: Clip
    question_id: str
    error: InputRowError


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        to_encode: Clips without committed tokens.
        cached: Clips whose tokens are committed and that have open questions.
        failures: Questions that can't be asked of some clip.
        clips_total: Clips of the job.
        answers_total: Answers the finished job has.
        answers_done: Answers that are committed already.
        answers_exhausted: Answers not planned: failed for good, or too often.
    """

    to_encode: tuple[Clip, ...]
    cached: tuple[Clip, ...]
    failures: tuple[RowFailure, ...]
    clips_total: int
    answers_total: int
    answers_done: int
    answers_exhausted: int

    @property
    def answers_planned(self) -> int:
        """Answers this run will try."""
        return sum(len(clip.question_ids) for clip in (*self.to_encode, *self.cached))


@dataclass(frozen=True)
class PlanCounts:
    """A plan's numbers; those of shards add up.

    Attributes:
        clips_total: Clips of the job.
        clips_to_encode: Clips without committed tokens that have open questions.
        clips_cached: Clips with committed tokens that have open questions.
        clips_tried_again: Clips of both kinds that failed before.
        answers_total: Answers the finished job has.
        answers_done: Answers that are committed already.
        answers_exhausted: Answers not planned: failed for good, or too often.
        answers_planned: Answers this run will try.
    """

    clips_total: int = 0
    clips_to_encode: int = 0
    clips_cached: int = 0
    clips_tried_again: int = 0
    answers_total: int = 0
    answers_done: int = 0
    answers_exhausted: int = 0
    answers_planned: int = 0

    @classmethod
    def of(cls, plan: Plan) -> PlanCounts:
        """The numbers of one plan."""
        return cls(
            clips_total=plan.clips_total,
            clips_to_encode=len(plan.to_encode),
            clips_cached=len(plan.cached),
            clips_tried_again=sum(clip.is_tried_again for clip in (*plan.to_encode, *plan.cached)),
            answers_total=plan.answers_total,
            answers_done=plan.answers_done,
            answers_exhausted=plan.answers_exhausted,
            answers_planned=plan.answers_planned,
        )

    def __add__(self, other: PlanCounts) -> PlanCounts:
        """The numbers of two shards together."""
        return PlanCounts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def clips_planned(self) -> int:
        """Clips this run will work on."""
        return self.clips_to_encode + self.clips_cached


class FailureHistory:
    """What failed in earlier runs, and whether it may be tried again. A later answer of a clip supersedes its failures.

    Args:
        failures: Committed failures.
        answered_in: The latest run, by `clip_id`, that gave an answer; runs are named in the order they began.
        max_attempts: Tries of a transient failure.
    """

    def __init__(self, failures: Iterable[FailureKey], answered_in: Mapping[str, str], max_attempts: int) -> None:
        self._max_attempts = max_attempts
        self._of_rows: set[tuple[str, str | None]] = set()
        self._permanent: set[tuple[str, str | None]] = set()
        self._attempts: dict[tuple[str, str | None], int] = {}
        self._forgiven: dict[tuple[str, str | None], int] = {}
        for failure in failures:
            key = (failure.clip_id, failure.question_id)
            if failure.stage == PLAN_STAGE:
                # The row itself was at fault: planning sees for itself whether it still is.
                self._of_rows.add(key)
                continue
            if failure.question_id is None and failure.run_id < answered_in.get(failure.clip_id, ""):
                continue
            if failure.retried:
                self._forgiven[key] = max(self._forgiven.get(key, 0), failure.attempt)
            elif failure.error_kind == "permanent":
                self._permanent.add(key)
            self._attempts[key] = max(self._attempts.get(key, 0), failure.attempt)

    def attempts(self, clip: str, question_id: str | None = None) -> int:
        """Tries so far of a clip, or of one question of it, that failed."""
        return self._attempts.get((clip, question_id), 0)

    def is_noted(self, clip: str, question_id: str) -> bool:
        """Whether an earlier plan has recorded that a row can't be asked this question."""
        return (clip, question_id) in self._of_rows

    def is_exhausted(self, clip: str, question_id: str | None) -> bool:
        """Whether a clip (`question_id` None) or one question of it is not to be tried again."""
        key = (clip, question_id)
        tries = self._attempts.get(key, 0) - self._forgiven.get(key, 0)
        return key in self._permanent or tries >= self._max_attempts


def plan(
    videos: Sequence[Video],
    sources: Sequence[Source],
    questions: QuestionTable,
    *,
    committed_tokens: Container[str],
    answered: Iterable[AnswerKey],
    failed: Iterable[FailureKey],
    max_attempts: int,
) -> Plan:
    """Decide what is left to do.

    Args:
        videos: Rows of the videos table.
        sources: What the bytes of each are, in the same order.
        questions: The job's questions.
        committed_tokens: `content_key` of every clip whose tokens are committed.
        answered: Committed answers under this run's `answers_fingerprint`.
        failed: Committed failures under it.
        max_attempts: Tries of a transient failure.

    Raises:
        QuestionChangedError: a `question_id` has answers to another text; names it and the video.
    """
    answers = _Answers(answered)
    history = FailureHistory(failed, answers.answered_in, max_attempts)
    used_columns = questions.columns
    to_encode: list[Clip] = []
    cached: list[Clip] = []
    failures: list[RowFailure] = []
    total = done = exhausted = 0
    for video, source in zip(videos, sources, strict=True):
        whole = _clip(video, source, used_columns)
        open_questions: list[str] = []
        for question in questions.for_video(video.video_id):
            total += 1
            if isinstance(wanted := _wanted(question, whole), InputRowError):
                if history.is_noted(whole.clip_id, question.question_id):
                    exhausted += 1
                else:
                    failures.append(RowFailure(whole, question.question_id, wanted))
                continue
            if answers.has(whole, question, wanted):
                done += 1
            elif history.is_exhausted(whole.clip_id, None) or history.is_exhausted(whole.clip_id, question.question_id):
                exhausted += 1
            else:
                open_questions.append(question.question_id)
        if open_questions:
            clip = _with_questions(whole, open_questions, history)
            # A row with a problem names no span of its own: the probe refuses it, whatever is committed for the video.
            is_cached = clip.problem is None and clip.content_key in committed_tokens
            (cached if is_cached else to_encode).append(clip)
    answers.check(questions.common)
    return Plan(tuple(to_encode), tuple(cached), tuple(failures), len(videos), total, done, exhausted)


def whole_clip(video: Video, source: Source) -> Clip:
    """The clip of a row, without questions."""
    return _clip(video, source, ())


def changed_sources(
    videos: Sequence[Video], sources: Sequence[Source], probed: Mapping[str, Collection[str]]
) -> list[str]:
    """`video_id` of every video whose path was probed before with other bytes and never with these.

    Args:
        videos: Rows of the videos table.
        sources: What the bytes of each are now.
        probed: Every `source_id` probed so far, by `video_path`.
    """
    return [
        video.video_id
        for video, source in zip(videos, sources, strict=True)
        if source.exists and source.source_id not in probed.get(video.video_path or "", {source.source_id})
    ]


class _Answers:
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
        """A question for all videos, without columns, has one text: also for videos that it has not been put to yet."""
        for question in common:
            wanted = question.fixed_hash
            if wanted is not None and wanted not in self._everywhere.get(question.question_id, {wanted}):
                raise QuestionChangedError(
                    "its answers for other videos were given to another text or other options; give the new question a "
                    "question_id of its own",
                    f"question_id {question.question_id!r}",
                )

    def has(self, clip: Clip, question: Question, wanted: str) -> bool:
        # A question that names the span has a text for each window of a video.
        owner = clip.clip_id if _SPAN_COLUMNS & question.columns else clip.video_id
        if self._hashes.get((owner, question.question_id), wanted) != wanted:
            raise QuestionChangedError(
                f"its answers for video_id {clip.video_id!r} were given to another text (the question, its options, "
                f"or a column it uses has changed); give the new question a question_id of its own",
                f"question_id {question.question_id!r}",
            )
        return (clip.clip_id, question.question_id, wanted) in self._keys


def _clip(video: Video, source: Source, used_columns: Collection[str]) -> Clip:
    # A row with a problem is no span of the video: repaired, it is another clip.
    source_id = source.source_id if video.problem is None else digest("problem", source.source_id, video.problem)
    key = content_key(source_id, video.start_s, video.end_s)
    row = {
        "video_id": video.video_id,
        "video_path": video.video_path,
        "start_s": video.start_s,
        "end_s": video.end_s,
    }
    row.update(video.columns)
    return Clip(
        clip_id=clip_id(video.video_id, key),
        video_id=video.video_id,
        content_key=key,
        source_id=source.source_id,
        video_path=video.video_path,
        start_s=video.start_s,
        end_s=video.end_s,
        # As text, once: what is hashed here and rendered in the answer stage must not differ by a trip through JSON.
        columns={name: None if row.get(name) is None else str(row[name]) for name in used_columns},
        problem=video.problem,
        unreachable=source.unreachable,
    )


def _with_questions(clip: Clip, question_ids: list[str], history: FailureHistory) -> Clip:
    tries = {question_id: history.attempts(clip.clip_id, question_id) for question_id in question_ids}
    return replace(
        clip,
        question_ids=tuple(question_ids),
        attempt=history.attempts(clip.clip_id) + 1,
        question_attempts={question_id: count + 1 for question_id, count in tries.items() if count},
    )


def _wanted(question: Question, clip: Clip) -> str | InputRowError:
    """The `question_hash` of what a clip would be asked."""
    if question.fixed_hash is not None:
        return question.fixed_hash
    empty = sorted(name for name in question.columns if clip.columns[name] is None)
    if empty:
        return InputRowError(
            f"question {question.question_id!r} uses {{{empty[0]}}}, which is empty here",
            f"video_id {clip.video_id!r}",
        )
    return question_hash(question.render(clip.columns), question.options)


def shards(clips: Sequence[Clip], count: int) -> Iterator[tuple[Clip, ...]]:
    """Deal clips into at most `count` shards, each one read task of the run."""
    for index in range(min(count, len(clips))):
        yield tuple(clips[index::count])
