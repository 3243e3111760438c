"""The plan: (clips x questions) minus what is committed. Pure: snapshots in, decisions out.

Nothing here knows Ray or storage; the cross product is walked clip by clip and never held.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import TYPE_CHECKING

from pipeline.clip import AnswerKey, Clip, Failure, FailureKey
from pipeline.errors import InputRowError
from pipeline.plan.history import PLAN_STAGE, AnswerHistory, FailureHistory
from pipeline.store.keys import clip_id, content_key, digest

if TYPE_CHECKING:  # these modules also read tables
    from pipeline.inputs.questions import Question, QuestionTable
    from pipeline.inputs.videos import Source, Video


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

    def __add__(self, other: PlanCounts) -> PlanCounts:
        """The numbers of two shards together."""
        return PlanCounts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def clips_planned(self) -> int:
        """Clips this run will work on."""
        return self.clips_to_encode + self.clips_cached


@dataclass(frozen=True)
class Plan:
    """What a run has to do.

    Attributes:
        to_encode: Clips without committed tokens.
        cached: Clips whose tokens are committed and that have open questions.
        failures: Questions that can't be asked of a clip.
        totals: Of `counts`, what the clips do not tell.
    """

    to_encode: tuple[Clip, ...]
    cached: tuple[Clip, ...] = ()
    failures: tuple[tuple[Clip, Failure], ...] = ()
    totals: PlanCounts = PlanCounts()

    @property
    def counts(self) -> PlanCounts:
        """The plan's numbers."""
        clips = (*self.to_encode, *self.cached)
        return replace(
            self.totals,
            clips_to_encode=len(self.to_encode),
            clips_cached=len(self.cached),
            clips_tried_again=sum(clip.is_tried_again for clip in clips),
            answers_planned=sum(len(clip.question_ids) for clip in clips),
        )

    @property
    def unprobed(self) -> tuple[Clip, ...]:
        """The clips to encode that no probe has found a length for, and those of rows with a problem."""
        return tuple(clip for clip in self.to_encode if clip.duration_s is None or clip.problem is not None)

    def without(self, clip_ids: Container[str]) -> Plan:
        """The same plan without some of the clips to encode."""
        return replace(self, to_encode=tuple(clip for clip in self.to_encode if clip.clip_id not in clip_ids))


def plan(
    clips: Sequence[Clip],
    questions: QuestionTable,
    *,
    committed_tokens: Container[str],
    answered: Iterable[AnswerKey],
    failed: Iterable[FailureKey],
    max_attempts: int,
) -> Plan:
    """Decide what is left to do.

    Args:
        clips: Every clip of the job, without questions: see `row_clip` and `pipeline.plan.windows.cut`.
        questions: The job's questions.
        committed_tokens: `content_key` of every clip whose tokens are committed.
        answered: Committed answers under this run's `answers_fingerprint`.
        failed: Committed failures under it.
        max_attempts: Tries of a transient failure.

    Raises:
        QuestionChangedError: a `question_id` has answers to another text; names it and the video.
    """
    answers = AnswerHistory(answered)
    history = FailureHistory(failed, answers.answered_in, max_attempts)
    to_encode: list[Clip] = []
    cached: list[Clip] = []
    failures: list[tuple[Clip, Failure]] = []
    total = done = exhausted = 0
    for clip in clips:
        # By their ids, the hashes of what each would be asked.
        open_questions: dict[str, str] = {}
        for question in questions.for_video(clip.video_id):
            total += 1
            name = question.question_id
            if question.columns and (failure := _unanswerable(question, clip)) is not None:
                if history.is_noted(clip.clip_id, name):
                    exhausted += 1
                else:
                    failures.append((clip, failure))
                continue
            wanted = question.hash(clip.columns)
            if answers.has(clip.video_id, clip.clip_id, question, wanted):
                done += 1
            elif history.is_exhausted(clip.clip_id) or history.is_exhausted(clip.clip_id, name, wanted):
                exhausted += 1
            else:
                open_questions[name] = wanted
        if open_questions:
            # A row with a problem names no span of its own: the probe refuses it, whatever is committed for the video.
            is_cached = clip.problem is None and clip.content_key in committed_tokens
            (cached if is_cached else to_encode).append(_with_questions(clip, open_questions, history))
    answers.check(questions.common)
    totals = PlanCounts(clips_total=len(clips), answers_total=total, answers_done=done, answers_exhausted=exhausted)
    return Plan(tuple(to_encode), tuple(cached), tuple(failures), totals)


def row_clip(video: Video, source: Source, columns: Collection[str] = (), duration_s: float | None = None) -> Clip:
    """The clip of a row, without questions.

    Args:
        video: A row of the videos table.
        source: What the bytes of its file are.
        columns: The columns of the row that questions use.
        duration_s: Length of the file in seconds, if it was probed.
    """
    # A row with a problem is no span of the video: repaired, it is another clip.
    source_id = source.source_id if video.problem is None else digest("problem", source.source_id, video.problem)
    key = content_key(source_id, video.start_s, video.end_s)
    row = {**vars(video), **video.columns}
    return Clip(
        clip_id=clip_id(video.video_id, key),
        video_id=video.video_id,
        source_id=source.source_id,
        start_s=video.start_s,
        end_s=video.end_s,
        content_key=key,
        video_path=video.video_path,
        # As text, once: what is hashed here and rendered in the answer stage must not differ by a trip through JSON.
        columns={name: as_text(row.get(name)) for name in columns},
        problem=video.problem,
        unreachable=source.unreachable,
        size_bytes=source.size_bytes,
        duration_s=duration_s,
    )


def as_text(value: object) -> str | None:
    """A column's value as questions use it; None if it is empty."""
    return None if value is None else str(value)


def changed_sources(clips: Iterable[Clip], probed: Mapping[str, Collection[str]]) -> list[str]:
    """`video_id` of every video whose path was probed before with other bytes and never with these.

    Args:
        clips: A clip for each row of the videos table.
        probed: Every `source_id` probed so far, by `video_path`.
    """
    return [
        clip.video_id
        for clip in clips
        if clip.size_bytes is not None and clip.source_id not in probed.get(clip.video_path or "", {clip.source_id})
    ]


def _with_questions(clip: Clip, questions: Mapping[str, str], history: FailureHistory) -> Clip:
    tries = {name: history.attempts(clip.clip_id, name, asked) for name, asked in questions.items()}
    return replace(
        clip,
        question_ids=tuple(questions),
        attempt=history.attempts(clip.clip_id) + 1,
        question_attempts={question_id: count + 1 for question_id, count in tries.items() if count},
    )


def _unanswerable(question: Question, clip: Clip) -> Failure | None:
    """Why a question can't be asked of a clip; None if it can."""
    empty = sorted(name for name in question.columns if clip.columns[name] is None)
    if not empty:
        return None
    error = InputRowError(
        f"question {question.question_id!r} uses {{{empty[0]}}}, which is empty here", f"video_id {clip.video_id!r}"
    )
    return Failure.of(error, PLAN_STAGE, question.question_id)


def deal(clips: Sequence[Clip], count: int) -> Iterator[tuple[Clip, ...]]:
    """Deal clips into at most `count` parts, each one read task of the run."""
    for index in range(min(count, len(clips))):
        yield tuple(clips[index::count])
