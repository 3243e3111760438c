"""Defines the message that passes between stages: one clip per Arrow block, its frames as raw bytes, never pickled."""

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

# Everything but the bytes is JSON, which preserves every float exactly.
_SCHEMA = pa.schema([("message", pa.string()), ("frames", pa.large_binary()), ("tokens", pa.large_binary())])


@dataclass(frozen=True)
class ClipIdentity:
    """Identifies a span of a video, by the columns that rows of answers, failures and tokens share.

    Attributes:
        clip_id: Id derived from the video and the clip's content key.
        video_id: Id of the row in the videos table.
        source_id: Id of the file's bytes.
        start_s: Start of the span in seconds; None is the start of the file.
        end_s: End of the span in seconds; None is the end of the file.
    """

    clip_id: str
    video_id: str
    source_id: str
    start_s: float | None
    end_s: float | None

    def identity(self) -> dict[str, Any]:
        """Return the identity columns by name."""
        return {column.name: getattr(self, column.name) for column in fields(ClipIdentity)}


@dataclass(frozen=True)
class Clip(ClipIdentity):
    """Describes a unit of work: one span of one video, with the questions that still need an answer.

    Attributes:
        content_key: Cache key of the clip's tokens.
        video_path: Path or URL of the file; None if the row has none.
        question_ids: Ids of the questions to answer; their texts are sent to each actor once, not with every clip.
        columns: Columns of the video's row that the questions use, as text.
        attempt: Number of this attempt at the clip, counted from 1 over all runs.
        question_attempts: Number of this attempt at each question that failed on its own before, by `question_id`.
        problem: Why the row can't be used; None if it can (`Video.problem` in `pipeline/inputs/videos.py`).
        unreachable: Why storage could not identify the file's bytes; None if it could (`Source.unreachable` in
            `pipeline/inputs/videos.py`).
        size_bytes: Size of the file; None if it does not exist.
        duration_s: Length of the file in seconds; None until the file is probed.
        num_frames: Pictures of the file; None until the file is probed.
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
    num_frames: int | None = None

    def attempt_of(self, question_id: str | None) -> int:
        """Return the attempt number, from 1, of a question, or of the whole clip if `question_id` is None."""
        return self.attempt if question_id is None else self.question_attempts.get(question_id, self.attempt)

    @property
    def is_tried_again(self) -> bool:
        """Return whether the clip or one of its questions failed before."""
        return self.attempt > 1 or bool(self.question_attempts)


@dataclass(frozen=True)
class DecodedClip:
    """Holds the sampled frames of a clip.

    Attributes:
        frames: uint8 `[F, H, W, 3]`, RGB.
        frame_timestamps: float64 `[F]`, presentation times in seconds.
    """

    frames: NDArray[np.uint8]
    frame_timestamps: NDArray[np.float64]


@dataclass(frozen=True)
class Failure:
    """Describes a failed clip or question: a row of `failures/` without the clip's columns.

    Attributes:
        stage: probe, plan, decode, encode or answer.
        error_type: Class name of the error.
        error_kind: transient or permanent; this decides whether a later run retries.
        error_message: Message of the error, one sentence.
        traceback: Traceback of the error, for debugging.
        question_id: Id of the question that failed; None if the whole clip failed.
        question_hash: Hash of the question as rendered for the clip; None if it is unknown.
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
        """Describe an exception; one that is not a `FlashVidError` counts as transient, since it may not recur."""
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
    """Identifies a committed answer."""

    video_id: str
    clip_id: str
    question_id: str
    question_hash: str
    run_id: str = ""


@dataclass(frozen=True)
class FailureKey:
    """Holds the columns of a committed failure that planning reads.

    `retried` is whether `flashvid retry` released the failure after it was committed.
    """

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
    """Carries a clip through the stages.

    Attributes:
        clip: The planned clip.
        decoded: The clip's frames, from decode to encode.
        tokens: With `cache: off`, the bytes of the token object that would otherwise be committed, from encode to
            answer.
        answers: Answer rows without the run's columns, set by the answer stage.
        failures: Failures so far; after one without a `question_id`, later stages skip the clip.
    """

    clip: Clip
    decoded: DecodedClip | None = None
    tokens: bytes | None = None
    answers: tuple[Mapping[str, Any], ...] = ()
    failures: tuple[Failure, ...] = ()

    @property
    def has_failed(self) -> bool:
        """Return whether the whole clip has failed."""
        return any(failure.question_id is None for failure in self.failures)

    @property
    def is_suspected(self) -> bool:
        """Return whether the clip may have killed the processes that worked on it (`SuspectedClipError`)."""
        return any(failure.error_type == SuspectedClipError.__name__ for failure in self.failures)

    def failed(self, failure: Failure) -> ClipMessage:
        """Return the message with a failure added and without frames and tokens."""
        return replace(self, decoded=None, tokens=None, failures=(*self.failures, failure))

    def to_table(self) -> pa.Table:
        """Return the message as an Arrow table of one row."""
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
        """Return the message of every row of a table."""
        return [cls.from_table(table.slice(row, 1)) for row in range(table.num_rows)]

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """Return the message of a table of one row; its `decoded.frames` is a read-only view of the table's buffer.

        Raises:
            ValueError: the table does not have exactly one row.
        """
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
    """Return a binary column with one value, which shares the array's memory."""
    offsets = pa.py_buffer(np.array([0, array.nbytes], dtype=np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(array)])


def _bytes_of(column: pa.ChunkedArray) -> NDArray[np.uint8]:
    """Return the only value of a binary column as a read-only uint8 view; Arrow's scalar would be a copy."""
    (chunk,) = (chunk for chunk in column.chunks if len(chunk))
    _, offsets, content = chunk.buffers()
    start, end = np.frombuffer(offsets, dtype=np.int64)[chunk.offset : chunk.offset + 2]
    view = np.frombuffer(content, dtype=np.uint8)[start:end]
    view.flags.writeable = False  # the memory belongs to Ray's object store or to another stage
    return view
