"""The plan: (clips x questions) minus what is committed. Pure: snapshots in, decisions out.

Nothing here knows Ray or storage; the cross product is walked clip by clip and never held.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, replace

from pipeline.clip import AnswerKey, Clip, FailureKey
from pipeline.errors import InputRowError
from pipeline.inputs import Question, QuestionTable, Video
from pipeline.inputs.videos import Source
from pipeline.plan.history import AnswerHistory, FailureHistory
from pipeline.store.keys import clip_id, content_key, digest, question_hash


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


def plan(
    videos: Sequence[Video],
    sources: Sequence[Source],
    questions: QuestionTable,
    *,
    committed_tokens: Container[str],
    answered: Iterable[AnswerKey],
    failed: Iterable[FailureKey],
    max_attempts: int,
    durations: Mapping[str, float] | None = None,
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
        durations: Seconds of files that are known, by `source_id`.

    Raises:
        QuestionChangedError: a `question_id` has answers to another text; names it and the video.
    """
    answers = AnswerHistory(answered)
    history = FailureHistory(failed, answers.answered_in, max_attempts)
    used_columns = questions.columns
    to_encode: list[Clip] = []
    cached: list[Clip] = []
    failures: list[RowFailure] = []
    total = done = exhausted = 0
    for video, source in zip(videos, sources, strict=True):
        whole = _clip(video, source, used_columns, (durations or {}).get(source.source_id))
        # By their ids, what each would be asked.
        open_questions: dict[str, str] = {}
        for question in questions.for_video(video.video_id):
            total += 1
            if isinstance(wanted := _wanted(question, whole), InputRowError):
                if history.is_noted(whole.clip_id, question.question_id):
                    exhausted += 1
                else:
                    failures.append(RowFailure(whole, question.question_id, wanted))
                continue
            asked = (whole.clip_id, question.question_id, wanted)
            if answers.has(whole.video_id, whole.clip_id, question, wanted):
                done += 1
            elif history.is_exhausted(whole.clip_id) or history.is_exhausted(*asked):
                exhausted += 1
            else:
                open_questions[question.question_id] = wanted
        if open_questions:
            clip = _with_questions(whole, open_questions, history)
            # A row with a problem names no span of its own: the probe refuses it, whatever is committed for the video.
            is_cached = clip.problem is None and clip.content_key in committed_tokens
            (cached if is_cached else to_encode).append(clip)
    answers.check(questions.common)
    return Plan(tuple(to_encode), tuple(cached), tuple(failures), len(videos), total, done, exhausted)


def whole_clip(video: Video, source: Source) -> Clip:
    """The clip of a row, without questions."""
    return _clip(video, source, (), None)


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


def _clip(video: Video, source: Source, used_columns: Collection[str], duration_s: float | None) -> Clip:
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
        size_bytes=source.size_bytes,
        duration_s=duration_s,
    )


def _with_questions(clip: Clip, questions: Mapping[str, str], history: FailureHistory) -> Clip:
    tries = {name: history.attempts(clip.clip_id, name, asked) for name, asked in questions.items()}
    return replace(
        clip,
        question_ids=tuple(questions),
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
