"""The ledger: rows come back as they were committed, for us and for any Parquet reader."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.clip import AnswerKey, FailureKey
from pipeline.store import schemas
from pipeline.store.keys import shard_of
from pipeline.store.ledger import OBJECTS_AT_ONCE, Ledger
from pipeline.store.parquet import from_bytes, to_bytes
from pipeline.store.storage import Storage
from tests.support.helpers import one_per_shard

PRINT = "0123456789abcdef"


def answer(video: str, question: str = "q1", **fields: object) -> dict[str, Any]:
    """A whole row of `schemas.ANSWERS`."""
    row = {
        "clip_id": f"clip-{video}",
        "video_id": video,
        "source_id": f"source-{video}",
        "start_s": 0.5,
        "end_s": None,
        "question_id": question,
        "question": 'What is "red"?\nSay it, 日本',
        "question_hash": f"hash-{question}",
        "options": ["red, dark", "blue"],
        "expected_answer": None,
        "response": "",
        "finish_reason": "stop",
        "num_visual_tokens": 2**40,
        "num_prompt_tokens": 7,
        "num_generated_tokens": 1,
        "option_scores": [-0.25, -1e-300],
        "answer_seconds": 1 / 3,
        "attempt": 1,
        "run_id": "run-1",
        "epoch": 3,
    }
    return {**row, **fields}


def failure(video: str, question: str | None = None, **fields: object) -> dict[str, Any]:
    """A whole row of `schemas.FAILURES`."""
    row = {
        "clip_id": f"clip-{video}",
        "video_id": video,
        "video_path": f"/videos/{video}",
        "question_id": question,
        "stage": "decode",
        "error_type": "UnreadableVideoError",
        "error_kind": "permanent",
        "error_message": "cut short",
        "traceback": "Traceback ...\n",
        "attempt": 1,
        "run_id": "run-1",
        "question_hash": None if question is None else f"hash-{question}",
        "source_id": None,
        "start_s": None,
        "end_s": None,
    }
    return {**row, **fields}


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows in an order of their own."""
    return sorted(rows, key=lambda row: (row["video_id"], row["question_id"] or ""))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """An empty ledger in a folder."""
    return Ledger(Storage(str(tmp_path)), PRINT)


def test_an_empty_ledger_has_no_keys(ledger: Ledger, tmp_path: Path) -> None:
    """And appending nothing writes nothing."""
    ledger.append_answers([], "p1")
    ledger.append_failures([], "p1")
    assert (list(ledger.answer_keys()), list(ledger.failure_keys())) == ([], [])
    assert list(tmp_path.iterdir()) == []


def test_rows_come_back_as_they_were(ledger: Ledger, tmp_path: Path) -> None:
    """Every column of every row, over several parts; keys alone for planning."""
    answers = [answer(f"{number:04}", question) for number in range(40) for question in ("q1", "q2")]
    failures = [failure("bad"), failure("0001", "q3", error_kind="transient", attempt=2)]
    ledger.append_answers(answers[:30], "p1")
    ledger.append_answers(answers[30:], "p2")
    ledger.append_failures(failures[:1], "p1")
    ledger.append_failures(failures[1:], "p2")

    read = ds.dataset(tmp_path / "answers", format="parquet").to_table().to_pylist()
    assert by_id(read) == by_id(answers)
    read = ds.dataset(tmp_path / "failures", format="parquet").to_table().to_pylist()
    assert by_id(read) == by_id(failures)

    names = ("video_id", "clip_id", "question_id", "question_hash", "run_id")
    expected = {AnswerKey(*(row[name] for name in names)) for row in answers}
    keys = list(ledger.answer_keys())
    assert (len(keys), set(keys)) == (80, expected)
    assert set(ledger.failure_keys()) == {
        FailureKey("clip-bad", None, "permanent", 1, failures[0]["stage"], failures[0]["run_id"]),
        FailureKey("clip-0001", "q3", "transient", 2, failures[1]["stage"], failures[1]["run_id"], "hash-q3"),
    }


def test_files_have_the_published_schema_and_folders(ledger: Ledger, tmp_path: Path) -> None:
    """`answers/fingerprint=<f>/shard=<00..ff>/part-*.parquet`, the shard by `video_id`; `failures/` without shards."""
    videos = [f"v{number}" for number in range(30)]
    ledger.append_answers([answer(video) for video in videos], "run-1-00001")
    ledger.append_failures([failure("bad")], "run-1-00001")
    answer_files = {path.relative_to(tmp_path).as_posix(): path for path in (tmp_path / "answers").rglob("*.parquet")}
    assert set(answer_files) == {
        f"answers/fingerprint={PRINT}/shard={shard_of(video)}/part-run-1-00001.parquet" for video in videos
    }
    for name, path in answer_files.items():
        assert pq.read_schema(path).equals(schemas.ANSWERS)
        shard = name.split("shard=")[1][:2]
        in_shard = {video for video in videos if shard_of(video) == shard}
        assert set(pq.ParquetFile(path).read().column("video_id").to_pylist()) == in_shard
    (failure_file,) = (tmp_path / "failures").rglob("*.parquet")
    assert failure_file == tmp_path / f"failures/fingerprint={PRINT}/part-run-1-00001.parquet"
    assert pq.read_schema(failure_file).equals(schemas.FAILURES)


def test_objects_of_a_commit_are_written_side_by_side(tmp_path: Path) -> None:
    """So many at once and no more, each `OBJECTS_AT_ONCE` confirmed in the thread that commits: a lease has no lock."""
    waves = 3
    meeting = threading.Barrier(OBJECTS_AT_ONCE)
    calls: list[str] = []

    class Slow(Storage):
        def create(self, name: str, content: bytes, **options: Any) -> bool:
            calls.append("begun")
            meeting.wait(timeout=20)  # broken if fewer come
            return super().create(name, content, **options)

    def confirm() -> None:
        assert threading.current_thread() is threading.main_thread()
        calls.append("confirmed")

    videos = one_per_shard(waves * OBJECTS_AT_ONCE)
    storage = Slow(str(tmp_path))
    Ledger(storage, PRINT).append_answers([answer(video) for video in videos], "p1", confirm)
    assert calls == ["confirmed", *["begun"] * OBJECTS_AT_ONCE] * waves
    objects = list((tmp_path / "answers").rglob("*.parquet"))
    assert len(objects) == len(videos)
    assert storage.take_traffic() == {"bytes_written": sum(path.stat().st_size for path in objects)}


def test_a_store_with_one_connection_gets_one_object_at_a_time() -> None:
    """As FTP has: requests of several threads would mix. What fsspec calls asynchronous takes them."""
    calls: list[str] = []

    class Counted(Storage):
        def create(self, name: str, content: bytes, **options: Any) -> bool:
            calls.append("begun")
            created = super().create(name, content, **options)
            calls.append("ended")
            return created

    storage = Counted("memory://one-connection")
    videos = one_per_shard(2 * OBJECTS_AT_ONCE)
    ledger = Ledger(storage, PRINT)
    ledger.append_answers([answer(video) for video in videos], "p1", lambda: calls.append("confirmed"))
    assert calls == ["confirmed", "begun", "ended"] * len(videos)
    assert len(list(ledger.answer_keys())) == len(videos) > 1


@pytest.mark.parametrize("several", [False, True])
def test_a_store_with_one_connection_is_read_one_object_at_a_time(several: bool) -> None:
    """A store that takes several requests gets them."""
    busy = threading.Lock()
    overlaps: list[str] = []

    class Slow(MemoryFileSystem):  # type: ignore[misc]
        def _open(self, path: str, *args: Any, **options: Any) -> Any:
            alone = busy.acquire(blocking=False)
            time.sleep(0.02)
            if alone:
                busy.release()
            else:
                overlaps.append(path)
            return super()._open(path, *args, **options)

    storage = Storage(f"memory://{uuid.uuid4()}")
    ledger = Ledger(storage, PRINT)
    ledger.append_answers([answer(video) for video in one_per_shard(6)], "p1")
    storage.fs, storage.is_concurrent = Slow(), several or storage.is_concurrent
    assert len(list(ledger.answer_keys())) == 6
    assert bool(overlaps) == several


def test_pandas_reads_the_tables_without_us(ledger: Ledger, tmp_path: Path) -> None:
    """The folder is a table, and the fingerprint a column of it, so that forks stand side by side."""
    fork = Ledger(Storage(str(tmp_path)), "f" * 16)
    ledger.append_answers([answer("a"), answer("b")], "p1")
    fork.append_answers([answer("a")], "p1")
    frame = pd.read_parquet(tmp_path / "answers")
    assert frame.groupby("fingerprint", observed=True)["video_id"].apply(sorted).to_dict() == {
        PRINT: ["a", "b"],
        "f" * 16: ["a"],
    }
    assert list(frame["options"].iloc[0]) == ["red, dark", "blue"]
    assert frame["answer_seconds"].tolist() == [1 / 3] * 3
    assert (len(list(ledger.answer_keys())), len(list(fork.answer_keys()))) == (2, 1)


def test_the_second_writer_of_a_part_loses(ledger: Ledger, tmp_path: Path) -> None:
    """Loudly, and without changing what is there."""
    ledger.append_answers([answer("a")], "p1")
    with pytest.raises(FileExistsError, match="part-p1"):
        ledger.append_answers([answer("a", response="another")], "p1")
    ledger.append_failures([failure("a")], "p1")
    with pytest.raises(FileExistsError, match="part-p1"):
        ledger.append_failures([failure("a", stage="encode")], "p1")
    assert [row["response"] for row in ds.dataset(tmp_path / "answers").to_table().to_pylist()] == [""]
    assert [row["stage"] for row in ds.dataset(tmp_path / "failures").to_table().to_pylist()] == ["decode"]


def test_repeating_a_part_adds_nothing(ledger: Ledger) -> None:
    """A commit whose reply was lost may be sent again, row for row the same."""
    rows = [answer(video) for video in "abc"]
    for _ in range(2):
        ledger.append_answers(rows, "p1")
        ledger.append_failures([failure("d")], "p1")
    assert sorted(key.video_id for key in ledger.answer_keys()) == ["a", "b", "c"]
    assert len(list(ledger.failure_keys())) == 1


def test_an_unknown_column_is_refused() -> None:
    """A misspelt name would otherwise vanish from the table without a word."""
    with pytest.raises(KeyError, match="respons'"):
        to_bytes([{"respons": "yes"}], schemas.ANSWERS)


@pytest.mark.parametrize("rows", [[], [answer("a")], [answer("a"), answer("b", options=None)]])
def test_parquet_in_memory_keeps_rows_and_schema(rows: list[Mapping[str, Any]]) -> None:
    """An empty table is a table, too."""
    table = from_bytes(to_bytes(rows, schemas.ANSWERS))
    assert table.schema.equals(schemas.ANSWERS)
    assert table.to_pylist() == rows
