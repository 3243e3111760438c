"""What travels between the stages: one clip per Arrow block, its frames as raw bytes, never pickled."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from flashvid.errors import FlashVidError
from pipeline.errors import SuspectedClipError

# Everything but the bytes is JSON, which keeps a float to its last bit.
_SCHEMA = pa.schema([("message", pa.string()), ("frames", pa.large_binary()), ("tokens", pa.large_binary())])


@dataclass(frozen=True)
class ClipIdentity:
    """Which span of which video a clip is: the columns that rows of answers, failures and tokens share.

    Attributes:
        clip_id: Derived from the video and the clip's content key.
        video_id: The row of the videos table.
        source_id: What the bytes are.
        start_s: Start in seconds, None for the beginning.
        end_s: End in seconds, None for the end.
    """

    clip_id: str
    video_id: str
    source_id: str
    start_s: float | None
    end_s: float | None

    def identity(self) -> dict[str, Any]:
        """The columns by name."""
        return {column.name: getattr(self, column.name) for column in fields(ClipIdentity)}


@dataclass(frozen=True)
class Clip(ClipIdentity):
    """The unit of work: one span of one video, with the questions that still need an answer.

    Attributes:
        content_key: Cache key of its tokens.
        video_path: Where the file is; None if the row does not say.
        question_ids: Questions to answer, as ids: the texts travel once, not once a clip.
        columns: Columns of the video's row that the questions use, as text.
        attempt: 1 for the first try of the clip, counted over runs.
        question_attempts: The same of questions that failed before by themselves.
        problem: Why the row can't be used (see `Video.problem`).
        unreachable: Why storage could not say what the bytes are (see `Source.unreachable`).
        size_bytes: Size of the file; None if it is not there.
        duration_s: Length of the file in seconds; None before it is probed.
    """

    content_key: str
    video_path: str | None
    question_ids: tuple[str, ...] = ()
    columns: Mapping[str, str | None] = field(default_factory=dict)
    attempt: int = 1
    question_attempts: Mapping[str, int] = field(default_factory=dict)
    problem: str | None = None
    unreachable: str | None = None
    size_bytes: int | None = None
    duration_s: float | None = None

    def attempt_of(self, question_id: str | None) -> int:
        """Which try this is: of a question, or of the clip (None)."""
        return self.attempt if question_id is None else self.question_attempts.get(question_id, self.attempt)

    @property
    def is_tried_again(self) -> bool:
        """Whether the clip or one of its questions has failed before."""
        return self.attempt > 1 or bool(self.question_attempts)


@dataclass(frozen=True)
class DecodedClip:
    """Sampled frames of a clip.

    Attributes:
        frames: uint8 `[F, H, W, 3]`, RGB.
        frame_timestamps: `[F]` presentation times in seconds.
    """

    frames: NDArray[np.uint8]
    frame_timestamps: NDArray[np.float64]


@dataclass(frozen=True)
class Failure:
    """What could not be done, and why (a row of `tables.FAILURES` without the clip's part).

    Attributes:
        stage: probe, plan, decode, encode or answer.
        error_type: Class name of the error.
        error_kind: transient or permanent: the retry policy.
        error_message: One sentence.
        traceback: For whoever debugs it.
        question_id: The question at fault; None for the whole clip.
        question_hash: What it asked; None where that can't be told.
    """

    stage: str
    error_type: str
    error_kind: str
    error_message: str
    traceback: str
    question_id: str | None = None
    question_hash: str | None = None

    @classmethod
    def of(
        cls, error: BaseException, stage: str, question_id: str | None = None, question_hash: str | None = None
    ) -> Self:
        """Describe an exception. Errors that are not ours are transient: nothing says that they will come again."""
        return cls(
            stage=stage,
            error_type=type(error).__name__,
            error_kind=error.kind if isinstance(error, FlashVidError) else "transient",
            error_message=str(error) or type(error).__name__,
            traceback="".join(traceback.format_exception(error)),
            question_id=question_id,
            question_hash=question_hash,
        )


@dataclass(frozen=True)
class AnswerKey:
    """What identifies a committed answer."""

    video_id: str
    clip_id: str
    question_id: str
    question_hash: str
    run_id: str = ""


@dataclass(frozen=True)
class FailureKey:
    """What planning needs of a committed failure; `retried` if `flashvid retry` asked for it since."""

    clip_id: str
    question_id: str | None
    error_kind: str
    attempt: int
    stage: str = ""
    run_id: str = ""
    question_hash: str | None = None
    retried: bool = False


@dataclass(frozen=True)
class ClipMessage:
    """A clip on its way through the stages.

    Attributes:
        clip: The planned clip.
        decoded: Its frames, between decode and encode.
        tokens: Between encode and answer, the object that a run with a cache would have committed (`cache: off`).
        answers: Answer rows (without run columns), after the answer stage.
        failures: What failed; one without a `question_id` ends the clip's way.
    """

    clip: Clip
    decoded: DecodedClip | None = None
    tokens: bytes | None = None
    answers: tuple[Mapping[str, Any], ...] = ()
    failures: tuple[Failure, ...] = field(default=())

    @property
    def has_failed(self) -> bool:
        """Whether the whole clip has failed."""
        return any(failure.question_id is None for failure in self.failures)

    @property
    def is_suspected(self) -> bool:
        """Whether the clip may have killed the processes that worked on it (`SuspectedClipError`)."""
        return any(failure.error_type == SuspectedClipError.__name__ for failure in self.failures)

    def failed(self, failure: Failure) -> ClipMessage:
        """The same clip with a failure instead of frames or tokens."""
        return replace(self, decoded=None, tokens=None, failures=(*self.failures, failure))

    def to_table(self) -> pa.Table:
        """One Arrow row."""
        decoded = self.decoded
        message = {
            "clip": asdict(self.clip),
            "answers": self.answers,
            "failures": [asdict(failure) for failure in self.failures],
            "frames_shape": None if decoded is None else decoded.frames.shape,
            "frame_timestamps": None if decoded is None else decoded.frame_timestamps.tolist(),
        }
        frames = pa.nulls(1, pa.large_binary())
        if decoded is not None:
            frames = _binary(np.ascontiguousarray(decoded.frames))
        return pa.table([[json.dumps(message)], frames, pa.array([self.tokens], pa.large_binary())], schema=_SCHEMA)

    @classmethod
    def each_of(cls, table: pa.Table) -> list[Self]:
        """Read every row of a table."""
        return [cls.from_table(table.slice(row, 1)) for row in range(table.num_rows)]

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """Read one Arrow row; `decoded.frames` is a read-only view of its buffer."""
        if table.num_rows != 1:
            raise ValueError(f"a block holds one clip, not {table.num_rows}")
        message = json.loads(table["message"][0].as_py())
        clip, decoded = message["clip"], None
        if table["frames"][0].is_valid:
            decoded = DecodedClip(
                frames=_bytes_of(table["frames"]).reshape(message["frames_shape"]),
                frame_timestamps=np.array(message["frame_timestamps"], dtype=np.float64),
            )
        return cls(
            clip=Clip(**{**clip, "question_ids": tuple(clip["question_ids"])}),
            decoded=decoded,
            tokens=table["tokens"][0].as_py(),
            answers=tuple(message["answers"]),
            failures=tuple(Failure(**failure) for failure in message["failures"]),
        )


def _binary(array: NDArray[np.uint8]) -> pa.Array:
    """One binary value over the array's own memory."""
    offsets = pa.py_buffer(np.array([0, array.nbytes], dtype=np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])


def _bytes_of(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """The one binary value of a column, as a view (its scalar would be a copy)."""
    (chunk,) = (chunk for chunk in column.chunks if len(chunk))
    _, offsets, content = chunk.buffers()
    start, end = np.frombuffer(offsets, dtype=np.int64)[chunk.offset : chunk.offset + 2]
    view = np.frombuffer(content, dtype=np.uint8)[start:end]
    view.flags.writeable = False  # the object store's memory, or another stage's
    return view
