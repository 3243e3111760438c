"""What travels between stages: unchanged, and without copying frames."""

from __future__ import annotations

import datetime
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.clip import ClipMessage, DecodedClip, Failure
from pipeline.errors import UnreadableVideoError
from pipeline.inputs import Question
from tests.support.helpers import clip


def decoded(num_frames: int = 3) -> DecodedClip:
    """Random frames of an odd size."""
    frames = np.random.default_rng(1).integers(0, 256, (num_frames, 5, 7, 3), dtype=np.uint8)
    return DecodedClip(frames, np.linspace(0.1, 1 / 3, num_frames))


def a_failure(**fields: Any) -> Failure:
    """A failure as a stage makes it."""
    return Failure(**{"stage": "decode", "error_type": "X", "error_kind": "permanent", "error_message": "m",
                      "traceback": "t", **fields})  # fmt: skip


def test_everything_arrives() -> None:
    """Clip, answers and failures, with their types."""
    sent = ClipMessage(
        clip("a", start_s=0.5, end_s=None, video_path=None, question_ids=("q1", "q2"), attempt=3, problem="odd"),
        tokens=b"\x00PAR1",
        answers=({"response": "“yes”\n", "num": 3, "seconds": 1 / 3, "options": ["a", "b"], "none": None},),
        failures=(a_failure(question_id="q2"), a_failure(error_message="日本")),
    )
    received = ClipMessage.from_table(sent.to_table())
    assert received == sent
    assert isinstance(received.clip.question_ids, tuple)


def test_frames_arrive_byte_for_byte() -> None:
    """With their times, over the format that Ray moves between processes."""
    sent = ClipMessage(clip("a"), decoded())
    sink = pa.BufferOutputStream()
    table = sent.to_table()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    received = ClipMessage.from_table(pa.ipc.open_stream(sink.getvalue()).read_all()).decoded
    assert received is not None
    assert sent.decoded is not None
    np.testing.assert_array_equal(received.frames, sent.decoded.frames)
    np.testing.assert_array_equal(received.frame_timestamps, sent.decoded.frame_timestamps)
    assert (received.frames.dtype, received.frame_timestamps.dtype) == (np.uint8, np.float64)


def test_frames_are_never_copied() -> None:
    """The table lies over the decoder's memory, and what is read lies over the table's."""
    sent = ClipMessage(clip("a"), decoded())
    received = ClipMessage.from_table(sent.to_table()).decoded
    assert received is not None
    assert sent.decoded is not None
    assert np.shares_memory(received.frames, sent.decoded.frames)
    # Nobody may write into memory that belongs to the object store.
    assert not received.frames.flags.writeable


def test_frames_that_are_not_in_one_piece_arrive_right() -> None:
    """A view of every second frame, mirrored: copied once, because it must be."""
    whole = decoded(6)
    view = whole.frames[::2, :, ::-1]
    received = ClipMessage.from_table(ClipMessage(clip("a"), DecodedClip(view, whole.frame_timestamps[::2])).to_table())
    assert received.decoded is not None
    np.testing.assert_array_equal(received.decoded.frames, view)


def test_a_clip_without_frames_has_none() -> None:
    """Cached clips travel without; every block has the same schema, or Ray could not join them."""
    bare, full = ClipMessage(clip("a")).to_table(), ClipMessage(clip("a"), decoded()).to_table()
    assert ClipMessage.from_table(bare).decoded is None
    assert bare.schema.equals(full.schema)
    assert (bare.num_rows, full.num_rows) == (1, 1)


@pytest.mark.parametrize("num_rows", [0, 2])
def test_a_block_holds_one_clip(num_rows: int) -> None:
    """Anything else is a mistake of ours, and must not lose a clip."""
    table = pa.concat_tables([ClipMessage(clip(name)).to_table() for name in "ab"]).slice(0, num_rows)
    with pytest.raises(ValueError, match=f"one clip, not {num_rows}"):
        ClipMessage.from_table(table)


def test_a_slice_of_a_larger_table_is_read_at_its_place() -> None:
    """Offsets inside Arrow buffers count."""
    messages = [ClipMessage(clip("a"), decoded(2)), ClipMessage(clip("b"), decoded(3))]
    table = pa.concat_tables([message.to_table() for message in messages]).combine_chunks()
    received = ClipMessage.from_table(table.slice(1, 1))
    assert received.clip == messages[1].clip
    assert received.decoded is not None
    np.testing.assert_array_equal(received.decoded.frames, decoded(3).frames)


@pytest.mark.parametrize(
    "value",
    ["a {b}", 7, 0.1, 1e300, True, datetime.date(2026, 1, 31), datetime.datetime(2026, 1, 31, 5), Decimal("1.10")],
)
def test_a_question_reads_the_same_before_and_after_the_trip(value: object) -> None:
    """Its text is hashed while planning and rendered again where it is answered: the two must agree."""
    question = Question("q", "About {column}?")
    sent = clip("a", columns={"column": str(value)})
    received = ClipMessage.from_table(ClipMessage(sent).to_table()).clip
    assert question.render(received.columns) == question.render(sent.columns) == f"About {value}?"


def test_a_failure_of_the_whole_clip_takes_its_frames_away() -> None:
    """One of a single question does not end the clip's way."""
    sent = ClipMessage(clip("a"), decoded(), failures=(a_failure(question_id="q1"),))
    assert not sent.has_failed
    ended = sent.failed(a_failure())
    assert ended.has_failed
    assert ended.decoded is None
    assert [failure.question_id for failure in ended.failures] == ["q1", None]
    assert ClipMessage.from_table(ended.to_table()) == ended


def test_an_exception_is_described() -> None:
    """Ours by their kind; any other is transient, because nothing says that it comes again."""

    def fail(error: Exception) -> Failure:
        try:
            raise error
        except Exception as caught:  # noqa: BLE001
            return Failure.of(caught, "encode", "q1")

    ours = fail(UnreadableVideoError("cut short", "video_id 'a'"))
    assert (ours.stage, ours.error_type, ours.error_kind, ours.question_id) == (
        "encode", "UnreadableVideoError", "permanent", "q1",
    )  # fmt: skip
    assert ours.error_message == "video_id 'a': cut short"
    assert "in fail" in ours.traceback
    other = fail(MemoryError())
    assert (other.error_type, other.error_kind, other.error_message) == ("MemoryError", "transient", "MemoryError")
    assert pickle.loads(pickle.dumps(ours)) == ours  # noqa: S301 - our own bytes
