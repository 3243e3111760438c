"""Computes the plan, an anti-join: (clips x questions) minus committed answers. Pure: snapshots in, decisions out.

This module uses neither Ray nor storage. It walks the cross product clip by clip and never holds it in memory.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

from pipeline.clip import AnswerKey, Clip, Failure, FailureKey
from pipeline.errors import InputRowError
from pipeline.inputs.questions import Question, QuestionTable
from pipeline.inputs.videos import Source, Video
from pipeline.plan.history import PLAN_STAGE, AnswerHistory, FailureHistory
from pipeline.store.keys import clip_id, content_key, digest


@dataclass(frozen=True)
class PlanCounts:
    """Counts the clips and answers of a plan; the counts of shards can be added.

    Attributes:
        clips_total: Clips of the job.
        clips_to_encode: Clips without committed tokens that have open questions.
        clips_cached: Clips with committed tokens that have open questions.
        clips_tried_again: Clips of the two counts above that failed before.
        answers_total: Answers that the finished job has.
        answers_done: Answers that are committed.
        answers_exhausted: Answers not planned, because of a permanent failure or too many transient ones.
        answers_unaskable: Answers not planned, because their question uses an empty column of the video's row.
        answers_planned: Answers that this run will try to make.
    """

    clips_total: int = 0
    clips_to_encode: int = 0
    clips_cached: int = 0
    clips_tried_again: int = 0
    answers_total: int = 0
    answers_done: int = 0
    answers_exhausted: int = 0
    answers_unaskable: int = 0
    answers_planned: int = 0

    def __add__(self, other: PlanCounts) -> PlanCounts:
        """Return the sum of the counts of two shards."""
        return PlanCounts(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def clips_planned(self) -> int:
        """Return the number of clips that this run will work on."""
        return self.clips_to_encode + self.clips_cached


@dataclass(frozen=True)
class Plan:
    """Lists the clips that a run has to process.

    Attributes:
        to_encode: Clips without committed tokens.
        cached: Clips whose tokens are committed and that have open questions.
        failures: Questions that can't be asked of a clip.
        totals: Counts that can't be derived from the clips; `counts` adds the others.
    """

    to_encode: tuple[Clip, ...]
    cached: tuple[Clip, ...] = ()
    failures: tuple[tuple[Clip, Failure], ...] = ()
    totals: PlanCounts = PlanCounts()

    @property
    def counts(self) -> PlanCounts:
        """Return the plan's counts."""
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
        """Return the clips to encode whose file has no probed length or whose row has a problem."""
        return tuple(clip for clip in self.to_encode if clip.duration_s is None or clip.problem is not None)

    def without(self, clip_ids: Container[str]) -> Plan:
        """Return the plan without the clips to encode of these ids."""
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
    """Return the work that is left to do.

    Args:
        clips: Every clip of the job, without questions, from `row_clip` and `pipeline.plan.windows.cut`.
        questions: The job's questions.
        committed_tokens: `content_key` of every clip whose tokens are committed.
        answered: Committed answers under this run's `answers_fingerprint`.
        failed: Committed failures under the same fingerprint.
        max_attempts: Attempts allowed while failures are transient.

    Raises:
        QuestionChangedError: a `question_id` has answers to another text; the message names the question and the video.
    """
    answers = AnswerHistory(answered)
    history = FailureHistory(failed, answers.answered_in, max_attempts)
    to_encode: list[Clip] = []
    cached: list[Clip] = []
    failures: list[tuple[Clip, Failure]] = []
    total = done = exhausted = unaskable = 0
    for clip in clips:
        # `question_hash` of each question as rendered for the clip, by `question_id`.
        open_questions: dict[str, str] = {}
        for question in questions.for_video(clip.video_id):
            total += 1
            name = question.question_id
            if question.columns and (failure := _unanswerable(question, clip)) is not None:
                unaskable += 1
                if not history.is_noted(clip.clip_id, name):
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
            # A row with a problem has no valid span of its own, so committed tokens of the video do not apply: the
            # probe records its failure.
            is_cached = clip.problem is None and clip.content_key in committed_tokens
            (cached if is_cached else to_encode).append(_with_questions(clip, open_questions, history))
    answers.check(questions.common)
    totals = PlanCounts(
        clips_total=len(clips),
        answers_total=total,
        answers_done=done,
        answers_exhausted=exhausted,
        answers_unaskable=unaskable,
    )
    return Plan(tuple(to_encode), tuple(cached), tuple(failures), totals)


def row_clip(
    video: Video,
    source: Source,
    columns: Collection[str] = (),
    duration_s: float | None = None,
    num_frames: int | None = None,
) -> Clip:
    """Return the clip of a row, without questions.

    Args:
        video: A row of the videos table.
        source: Identity of the bytes of the row's file.
        columns: Names of the row's columns that questions use.
        duration_s: Length of the file in seconds; None if it was not probed.
        num_frames: Pictures of the file; None if it was not probed.
    """
    # A row with a problem is not a span of the video. Its problem enters the key, so the fixed row is another clip.
    key = clip_key(source.source_id, video.start_s, video.end_s, video.problem)
    row = {**vars(video), **video.columns}
    return Clip(
        clip_id=clip_id(video.video_id, key),
        video_id=video.video_id,
        source_id=source.source_id,
        start_s=video.start_s,
        end_s=video.end_s,
        content_key=key,
        video_path=video.video_path,
        # Converted to text once, so that the question hashed here and the one rendered in the answer stage are equal
        # after the clip has been through JSON.
        columns={name: as_text(row.get(name)) for name in columns},
        problem=video.problem,
        unreachable=source.unreachable,
        size_bytes=source.size_bytes,
        duration_s=duration_s,
        num_frames=num_frames,
    )


def clip_key(source_id: str, start_s: float | None, end_s: float | None, problem: str | None) -> str:
    """Return the content key of a clip, which differs if the clip can't be used, by the reason."""
    return content_key(source_id if problem is None else digest("problem", source_id, problem), start_s, end_s)


def as_text(value: object) -> str | None:
    """Return a column's value as text for questions; None if it is empty."""
    return None if value is None else str(value)


def changed_sources(clips: Iterable[Clip], probed: Mapping[str, Collection[str]]) -> list[str]:
    """Return the `video_id` of every video whose path was probed before with other bytes and never with these.

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
    """Return the failure of a question that uses an empty column of the clip's row; None if it can be asked."""
    empty = sorted(name for name in question.columns if clip.columns[name] is None)
    if not empty:
        return None
    error = InputRowError(
        f"question_id {question.question_id!r} uses {{{empty[0]}}}, but this column of the video's row is empty; "
        "fill it, or do not ask this question of the video",
        f"video_id {clip.video_id!r}",
    )
    return Failure.of(error, PLAN_STAGE, question.question_id)


def deal(clips: Sequence[Clip], count: int) -> Iterator[tuple[Clip, ...]]:
    """Split clips into at most `count` parts, one for each read task of the run."""
    for index in range(min(count, len(clips))):
        yield tuple(clips[index::count])
