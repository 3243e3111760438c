"""The forms of tables that people have, and what each of their cells becomes."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.config import JobConfig, QuestionRow
from pipeline.errors import InputTableError
from pipeline.inputs.questions_table import read_question_rows, read_questions
from pipeline.inputs.tables import read_table
from pipeline.inputs.videos_table import VIDEO_SUFFIXES, read_videos

ROWS = [
    {"video_id": "a", "video_path": "/a.mp4", "tag": "x"},
    {"video_id": "0002", "video_path": "/b.mp4", "tag": None},
]


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


WRITERS: dict[str, Callable[[Path], object]] = {
    ".csv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False),
    ".tsv": lambda path: pd.DataFrame(ROWS).to_csv(path, index=False, sep="\t"),
    ".jsonl": lambda path: pd.DataFrame(ROWS).to_json(path, orient="records", lines=True),
    ".ndjson": lambda path: pd.DataFrame(ROWS).to_json(path, orient="records", lines=True),
    ".json": lambda path: pd.DataFrame(ROWS).to_json(path, orient="records"),
    ".parquet": lambda path: pd.DataFrame(ROWS).to_parquet(path),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("suffix", WRITERS)
def test_each_form_of_a_table_reads_the_same(tmp_path: Path, suffix: str, zipped: bool) -> None:
    """As pandas writes it, also with gzip, and with a suffix in capitals."""
    path = tmp_path / f"videos{suffix.upper()}"
    WRITERS[suffix](path)
    if zipped:
        (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / f"{path.name}.gz"
    assert read_table(str(path), {}).to_pylist() == ROWS
    assert [(video.video_id, video.video_path) for video in read_videos(str(path))] == [
        ("a", "/a.mp4"),
        ("0002", "/b.mp4"),
    ]


def test_zeros_that_unpack_without_end(tmp_path: Path) -> None:
    """Bounded like Parquet."""
    (tmp_path / "v.csv.gz").write_bytes(gzip.compress(b"video_path\n" + b"0" * (70 << 20)))
    with pytest.raises(InputTableError, match="unpack to more than"):
        read_table(str(tmp_path / "v.csv.gz"), {})


@pytest.mark.parametrize("content", [b"\x1f\x8b", b"not gzip", gzip.compress(b"a,b\n1,2\n")[:-4]])
def test_gzip_that_is_none(tmp_path: Path, content: bytes) -> None:
    """Cut short, or something else."""
    (tmp_path / "v.csv.gz").write_bytes(content)
    with pytest.raises(InputTableError, match="not a readable csv table"):
        read_table(str(tmp_path / "v.csv.gz"), {})


def test_a_header_twice_is_named(tmp_path: Path) -> None:
    """The last one used to win."""
    (tmp_path / "dup.csv").write_text("video_id,video_path,video_path\na,base.mp4,x\n")
    with pytest.raises(InputTableError, match="it has the column 'video_path' more than once"):
        read_videos(str(tmp_path / "dup.csv"))


def answers(tmp_path: Path, text: str, name: str = "q.jsonl") -> list[Any]:
    """The answers and options of a questions table."""
    (tmp_path / name).write_text(text)
    return [(row.answer, row.options) for row in read_question_rows(str(tmp_path / name), {})]


def test_numbers_are_their_text(tmp_path: Path) -> None:
    """To the digit: an integer next to a fraction stays one. Of answers, options and ids."""
    rows = [{"question": "How many?", "answer": 2}, {"question": "Colour?", "answer": "red"}]
    rows += [{"question": "How long?", "answer": 2.5}, {"question": "Open?", "answer": None}]
    lines = "\n".join(map(json.dumps, rows))
    assert answers(tmp_path, lines) == [("2", None), ("red", None), ("2.5", None), (None, None)]
    assert answers(tmp_path, json.dumps(rows), "q.json") == answers(tmp_path, lines)
    assert answers(tmp_path, '{"question": "How many?", "options": [1, 2, 3], "answer": 2}') == [("2", ("1", "2", "3"))]
    assert answers(tmp_path, '{"question": "?", "options": [1, "b", 2.5]}') == [(None, ("1", "b", "2.5"))]


def test_numbers_of_parquet_are_their_text(tmp_path: Path) -> None:
    """Pandas has NaN where there is no answer."""
    frame = pd.DataFrame({"question": ["a", "b"], "answer": [1.5, float("nan")], "options": [[1, 2], None]})
    frame.to_parquet(tmp_path / "q.parquet")
    assert [(row.answer, row.options) for row in read_question_rows(str(tmp_path / "q.parquet"), {})] == [
        ("1.5", ("1", "2")),
        (None, None),
    ]


@pytest.mark.parametrize("cell", ['{"a": 1}', "[[1]]"])
def test_a_nested_cell_is_refused_with_row_and_column(tmp_path: Path, cell: str) -> None:
    """It has no text."""
    (tmp_path / "q.jsonl").write_text(f'{{"question": "a", "answer": 1}}\n{{"question": "b", "answer": {cell}}}')
    said = r"row 2: the column 'answer'|a list holds \[1\]|row 1: the column 'answer'"
    with pytest.raises(InputTableError, match=said):
        read_question_rows(str(tmp_path / "q.jsonl"), {})


def test_a_column_of_several_types_is_text(tmp_path: Path) -> None:
    """A number among texts; a nested value among others is refused."""
    (tmp_path / "v.jsonl").write_text('{"video_path": "a.mp4", "n": 1}\n{"video_path": "b.mp4", "n": "x"}')
    assert read_table(str(tmp_path / "v.jsonl"), {})["n"].to_pylist() == ["1", "x"]
    (tmp_path / "v.jsonl").write_text('{"n": 1}\n{"n": {"x": 1}}')
    with pytest.raises(InputTableError, match="row 2: the column 'n' has values of several types, one of them nested"):
        read_table(str(tmp_path / "v.jsonl"), {})


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_an_index_column_is_left_out_and_said(tmp_path: Path, name: str) -> None:
    """What pandas adds; a column of the user's own stays."""
    (tmp_path / "v.csv").write_text(f"{name},video_id,video_path,Unnamed\n0,a,/a.mp4,u\n")
    videos = read_videos(str(tmp_path / "v.csv"))
    assert videos.rows.column_names == ["video_id", "video_path", "Unnamed"]
    assert videos.notes == (f"{tmp_path}/v.csv: an index column without a name of its own is left out: {name!r}",)
    (tmp_path / "q.csv").write_text(f"{name},question\n0,What?\n")
    questions = read_questions(str(tmp_path / "q.csv"), videos)
    assert len(questions.common) == len(questions.notes) == 1


def test_a_glob_of_tables_is_one_table(tmp_path: Path) -> None:
    """In order of the names; columns in another order are the same, others are an error that names the file."""
    for number in (2, 1):
        (tmp_path / f"part-{number}.csv").write_text(f"video_path,video_id\n/{number}.mp4,v{number}\n")
    (tmp_path / "part-3.csv").write_text("video_id,video_path\nv3,/3.mp4\n")
    assert [video.video_id for video in read_videos(f"{tmp_path}/part-*.csv")] == ["v1", "v2", "v3"]
    memory = fsspec.filesystem("memory")
    for file in tmp_path.iterdir():
        memory.pipe_file(f"/tables/{file.name}", file.read_bytes())
    assert [video.video_id for video in read_videos("memory://tables/part-*.csv")] == ["v1", "v2", "v3"]
    with pytest.raises(InputTableError, match="matches no file"):
        read_videos(f"{tmp_path}/nothing-*.csv")
    (tmp_path / "part-4.csv").write_text("video_id,path\nv4,/4.mp4\n")
    with pytest.raises(InputTableError, match=r"part-4\.csv: has the columns \['video_id', 'path'\]"):
        read_videos(f"{tmp_path}/part-*.csv")


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    """It is itself."""
    (tmp_path / "part[1].csv").write_text("video_id,video_path\na,/a.mp4\n")
    assert len(read_videos(str(tmp_path / "part[1].csv"))) == 1


def test_folders_of_parts_are_tables(tmp_path: Path) -> None:
    """As Spark writes them, with Hive's keys as columns of texts; not those of folders above."""
    root = tmp_path / "above=1" / "table"
    for split, number in (("train", 1), ("t%C3%A9st", 2)):
        write_parquet(root / f"split={split}" / "day=01" / f"part-{number}.snappy.parquet", [
            {"video_id": f"v{number}", "video_path": f"/{number}.mp4"}
        ])  # fmt: skip
    (root / "_SUCCESS").write_text("")
    (root / "_metadata.parquet").write_text("")
    videos = read_videos(str(root))
    assert [(video.video_id, dict(video.columns)) for video in videos] == [
        ("v2", {"split": "tést", "day": "01"}),
        ("v1", {"split": "train", "day": "01"}),
    ]


def test_a_folder_of_tables_and_videos_is_refused(tmp_path: Path) -> None:
    """Which of them is meant can't be known."""
    write_parquet(tmp_path / "a.parquet", ROWS)
    (tmp_path / "b.mp4").write_bytes(b"1")
    with pytest.raises(InputTableError, match=r"holds both tables and videos, for example .*a\.parquet and .*b\.mp4"):
        read_videos(str(tmp_path))


@pytest.mark.parametrize("suffix", sorted(VIDEO_SUFFIXES))
def test_every_video_in_a_folder_is_one(tmp_path: Path, suffix: str) -> None:
    """By its usual suffix, also in capitals; attributes of macOS are none."""
    (tmp_path / f"a{suffix.upper()}").write_bytes(b"1")
    (tmp_path / f"._a{suffix}").write_bytes(b"1")
    assert [video.video_id for video in read_videos(str(tmp_path))] == [f"a{suffix.upper()}"]


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path) -> None:
    """By kind and number."""
    for name in ("a.mp4", "b.srt", "c.srt", "d.JPG", "README", "._a.mp4"):
        (tmp_path / name).write_bytes(b"1")
    (note,) = read_videos(str(tmp_path)).notes
    said, kinds = note.rsplit(": ", 1)
    assert said == f"{tmp_path}: left out, since their names are not those of videos"
    assert sorted(kinds.split(", ")) == ["1 ._*", "1 .jpg", "1 without a suffix", "2 .srt"]


def test_names_whose_accents_are_encoded_in_two_ways_match(tmp_path: Path) -> None:
    """A folder on macOS says NFD, a table typed elsewhere NFC. The id stays that of the videos."""
    apart, together = (unicodedata.normalize(form, "café.mp4") for form in ("NFD", "NFC"))
    (tmp_path / "v.csv").write_text(f"video_id,video_path\n{apart},/a.mp4\nb,/b.mp4\n", encoding="utf-8")
    (tmp_path / "q.csv").write_text(f"question,video_id\nWhat?,{together}\nWho?,b\n", encoding="utf-8")
    questions = read_questions(str(tmp_path / "q.csv"), read_videos(str(tmp_path / "v.csv")))
    assert [question.video_id for question in questions.for_video(apart)] == [apart]
    (tmp_path / "q.csv").write_text("question,video_id\nWhat?,cafe.mp4\n")
    with pytest.raises(InputTableError, match=r"video_id 'cafe\.mp4' is not in the videos table"):
        read_questions(str(tmp_path / "q.csv"), read_videos(str(tmp_path / "v.csv")))


def test_numbers_in_a_job_file_are_their_text() -> None:
    """As in a table; a yes or no that YAML takes for a truth value is refused, because its text is not known."""
    questions: list[dict[str, Any]] = [{"question": "How many?", "options": [1, 2.5], "answer": 2.5, "question_id": 7}]
    job = {"videos": "v", "output": "o", "model": {"name": "tiny"}, "questions": questions}
    (row,) = JobConfig.model_validate(job).questions
    assert isinstance(row, QuestionRow)
    assert (row.question_id, row.options, row.answer) == ("7", ("1", "2.5"), "2.5")
    questions[0]["options"] = [True, False]
    with pytest.raises(ValidationError, match="valid string"):
        JobConfig.model_validate(job)


def test_an_output_in_the_folder_of_its_videos_is_no_table(tmp_path: Path) -> None:
    """The second run reads the same folder."""
    (tmp_path / "a.mp4").write_bytes(b"1")
    write_parquet(tmp_path / "output" / "answers" / "fingerprint=0" / "shard=00" / "part-1.parquet", ROWS)
    write_parquet(tmp_path / "output" / "probes" / "part-1.parquet", ROWS)
    assert [video.video_id for video in read_videos(str(tmp_path))] == ["a.mp4"]
