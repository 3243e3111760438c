"""The input tables: every way to write them, and every way to get them wrong."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import QuestionRow
from pipeline.errors import InputTableError
from pipeline.inputs.questions import Question, QuestionTable
from pipeline.inputs.questions_table import read_questions
from pipeline.inputs.videos import Video, VideoTable
from pipeline.inputs.videos_table import read_videos
from pipeline.store.keys import shard_of

Rows = Sequence[dict[str, Any]]


def write_csv(path: Path, *lines: str) -> str:
    """A CSV file."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def write_jsonl(path: Path, rows: Rows) -> str:
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def write_parquet(path: Path, rows: Rows) -> str:
    """A Parquet file."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return str(path)


def questions_of(
    source: str | Rows, video_ids: Sequence[str] = ("a", "b"), columns: Sequence[str] = ("video_id", "title")
) -> QuestionTable:
    """Questions from a file or from rows in the job."""
    rows = source if isinstance(source, str) else [QuestionRow.model_validate(row) for row in source]
    videos = pa.table(dict.fromkeys(columns, video_ids))
    return read_questions(rows, VideoTable(videos, "v.csv"))


# Videos


def touch(folder: Path, *names: str) -> None:
    """Empty files, with their folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_gives_every_video_file_below_it(tmp_path: Path) -> None:
    """Named by their paths below the folder, sorted; other files are no videos."""
    touch(tmp_path, "b.mp4", "a.MKV", "sub/c.webm", "notes.txt", "sub/poster.jpg")
    for folder in (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}"):
        videos = list(read_videos(folder))
        assert [video.video_id for video in videos] == ["a.MKV", "b.mp4", "sub/c.webm"]
        assert [video.video_path.removeprefix("file://") for video in videos if video.video_path] == [
            f"{tmp_path}/{video.video_id}" for video in videos
        ]
        assert all((v.start_s, v.end_s, v.problem, v.columns) == (None, None, None, {}) for v in videos)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.mp4", ["a1.mp4", "b1.mp4"]),
        ("**/*.mp4", ["a1.mp4", "b1.mp4", "sub/a2.mp4", "sub/c2.mp4"]),
        ("sub/*", ["a2.mp4", "c2.mp4"]),
        ("sub/[ab]?.mp4", ["a2.mp4"]),
        ("s*/c2.mp4", ["sub/c2.mp4"]),
    ],
)
def test_a_glob_names_videos_below_its_fixed_part(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    """The part before the first wildcard is the same for all of them and says nothing."""
    touch(tmp_path, "a1.mp4", "b1.mp4", "sub/a2.mp4", "sub/c2.mp4", "sub/readme.md")
    assert [video.video_id for video in read_videos(f"{tmp_path}/{pattern}")] == expected


@pytest.mark.parametrize("name", ["clip.mp4", "clip [dQw4w9].mp4", "really?.mp4"])
def test_one_file_is_a_job_of_one_video(tmp_path: Path, name: str) -> None:
    """Also one whose name would be a pattern."""
    touch(tmp_path, name)
    assert list(read_videos(str(tmp_path / name))) == [Video(name, str(tmp_path / name))]


def test_a_folder_whose_name_would_be_a_pattern_is_a_folder(tmp_path: Path) -> None:
    """It is there, under this very name."""
    touch(tmp_path, "season [1]/e1.mp4")
    assert [video.video_id for video in read_videos(str(tmp_path / "season [1]"))] == ["e1.mp4"]


EXPECTED = [
    Video("0001", "/videos/a.mp4", None, None, {"title": "Big, loud"}),
    Video("2026-01-31", "s3://bucket/b.mp4", 1.5, 20.0, {"title": None}),
]


def test_the_three_kinds_of_table_say_the_same(tmp_path: Path) -> None:
    """Ids stay text: 0001 is not 1, and a date is not a time."""
    rows = [
        {"video_id": "0001", "video_path": "/videos/a.mp4", "start_s": None, "end_s": None, "title": "Big, loud"},
        {"video_id": "2026-01-31", "video_path": "s3://bucket/b.mp4", "start_s": 1.5, "end_s": 20, "title": None},
    ]
    csv = write_csv(
        tmp_path / "v.csv",
        "video_id,video_path,start_s,end_s,title",
        '0001,/videos/a.mp4,,,"Big, loud"',
        "2026-01-31,s3://bucket/b.mp4,1.5,20,",
    )
    for path in (csv, write_jsonl(tmp_path / "v.jsonl", rows), write_parquet(tmp_path / "v.parquet", rows)):
        assert list(read_videos(path)) == EXPECTED, path


def test_only_an_empty_cell_of_a_csv_is_empty(tmp_path: Path) -> None:
    """Words such as NA and null are words like others."""
    videos = list(
        read_videos(write_csv(tmp_path / "v.csv", "video_id,video_path,title", "NA,/a.mp4,null", "NaN,/b.mp4,"))
    )
    assert [(video.video_id, video.columns["title"]) for video in videos] == [("NA", "null"), ("NaN", None)]
    table = write_csv(tmp_path / "q.csv", "question,answer,video_id", "Null?,N/A,NA", "NaN,,")
    asked = questions_of(table, video_ids=["NA"]).for_video("NA")
    assert [(question.template, question.expected_answer) for question in asked] == [("NaN", None), ("Null?", "N/A")]


def test_numbers_as_ids_are_their_text(tmp_path: Path) -> None:
    """In files that have numbers."""
    rows = [{"video_id": 7, "video_path": "/a.mp4"}]
    for path in (write_jsonl(tmp_path / "v.jsonl", rows), write_parquet(tmp_path / "v.parquet", rows)):
        assert next(iter(read_videos(path))).video_id == "7"


def test_a_relative_path_is_meant_from_the_tables_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the job is started; URLs and absolute paths are left alone."""
    lines = ["video_id,video_path", "a,clips/a.mp4", "b,/abs/b.mp4", "c,s3://bucket/c.mp4", "d,../d.mp4"]
    table = write_csv(tmp_path / "v.csv", *lines)
    expected = [f"{tmp_path}/clips/a.mp4", "/abs/b.mp4", "s3://bucket/c.mp4", f"{tmp_path}/../d.mp4"]
    assert [video.video_path for video in read_videos(table)] == expected
    monkeypatch.chdir(tmp_path)
    assert [video.video_path for video in read_videos("v.csv")] == expected


def test_a_table_on_a_remote_filesystem(tmp_path: Path) -> None:
    """The memory filesystem of fsspec stands for it; relative paths are meant from there, too."""
    import fsspec

    del tmp_path
    fsspec.filesystem("memory").pipe_file("/inputs/v.csv", b"video_id,video_path\na,a.mp4\n")
    assert list(read_videos("memory://inputs/v.csv")) == [Video("a", "memory://inputs/a.mp4")]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("a,,1,2", "no video_path"),
        ("a,/v.mp4,-1,", "start_s is -1.0, before the video begins"),
        ("a,/v.mp4,3,2", r"end_s (2.0) is not after start_s (3.0)"),
        ("a,/v.mp4,3,3", r"end_s (3.0) is not after start_s (3.0)"),
        ("a,/v.mp4,,0", r"end_s (0.0) is not after start_s (0.0)"),
        ("a,/v.mp4,soon,", "start_s is 'soon', not a number of seconds"),
        ("a,/v.mp4,1,1:30", "end_s is '1:30', not a number of seconds"),
        ("a,/v.mp4,nan,", "start_s is 'nan', not a number of seconds"),
        ("a,/v.mp4,,inf", "end_s is 'inf', not a number of seconds"),
    ],
)
def test_an_impossible_row_stops_no_other(tmp_path: Path, row: str, problem: str) -> None:
    """It carries its problem to the probe stage."""
    table = write_csv(tmp_path / "v.csv", "video_id,video_path,start_s,end_s", "good,/g.mp4,0,1", row)
    good, bad = read_videos(table)
    assert good.problem is None
    assert bad.problem is not None
    assert problem in bad.problem


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["video_id,video_path", "a,/1.mp4", "b,/2.mp4", "a,/3.mp4"], "video_id 'a' occurs twice, in rows 1 and 3"),
        (["video_id,path", "a,/1.mp4"], r"has no column 'video_path'; its columns are \['video_id', 'path'\]"),
        (["id,video_path", "a,/1.mp4"], "has no column 'video_id'"),
        (["video_id,video_path", "a,/1.mp4", ",/2.mp4"], "row 2 has no video_id"),
        (["video_id,video_path", "a,/1.mp4", '" ",/2.mp4'], "row 2 has no video_id"),
        (["video_id,video_path"], "has no videos"),
        (["video_id,video_path", "a,b,c,d"], "not a readable csv table"),
        ([""], "not a readable csv table"),
    ],
)
def test_a_videos_table_that_cannot_be_read_as_one(tmp_path: Path, lines: list[str], message: str) -> None:
    """The message names the table, and the rows or the column."""
    table = write_csv(tmp_path / "v.csv", *lines)
    with pytest.raises(InputTableError, match=message) as caught:
        read_videos(table)
    assert str(caught.value).startswith(f"{table}: ")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("v.parquet", b"no parquet", "not a readable parquet table"),
        ("v.parquet", b"", "not a readable parquet table"),
        ("v.jsonl", b"", "has no videos"),
        ("v.jsonl", b'{"video_id": "a", "video_path": "/a"}\n{"video_id": ', "not a readable jsonl table: line 2"),
        ("v.jsonl", b"[1, 2]\n", "line 1 is not a JSON object"),
        ("v.jsonl", b'{"video_id": "a", "video_path": "/a"}\n\xff\n', "not a readable jsonl table"),
        ("v.csv", b"video_id,video_path\na,\xff\xfe\n", "not a readable csv table"),
    ],
)
def test_a_file_that_is_no_table(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """Damaged, empty, or another kind of file under this name."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputTableError, match=message) as caught:
        read_videos(str(tmp_path / name))
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "no such file or folder"),
        ("nowhere.csv", "no such file"),
        ("nowhere/*.mp4", "has no videos"),
        ("empty", "has no videos"),
        ("folder.csv", "is a folder, not a table file"),
    ],
)
def test_videos_that_are_not_there(tmp_path: Path, name: str, message: str) -> None:
    """The message names the path."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputTableError, match=message) as caught:
        read_videos(str(tmp_path / name))
    assert str(tmp_path / name) in str(caught.value)


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A file system takes any bytes; no table does, and to leave the video out would be silent."""
    (tmp_path / "good.mp4").touch()
    (tmp_path / os.fsdecode(b"b\xff.mp4")).touch()
    with pytest.raises(InputTableError, match=r"b\\udcff\.mp4' has a name that is not UTF-8"):
        read_videos(str(tmp_path))


def test_questions_may_use_every_column_some_video_has(tmp_path: Path) -> None:
    """And the four that every video has."""
    table = tmp_path / "v.jsonl"
    table.write_text(
        '{"video_id": "a", "video_path": "/a", "title": "x"}\n{"video_id": "b", "video_path": "/b", "year": 1}\n'
    )
    found = read_videos(str(table)).columns
    assert found == {"video_id", "video_path", "start_s", "end_s", "title", "year"}


def test_a_table_in_shards_is_the_table(tmp_path: Path) -> None:
    """Every row is in the shard of its `video_id`, in the table's order."""
    table = read_videos(write_csv(tmp_path / "v.csv", "video_id,video_path", *(f"v{i},/{i}.mp4" for i in range(500))))
    for count in (1, 2, 16):
        shards = table.shards(count)
        assert len(shards) == count
        assert sorted(video.video_id for shard in shards for video in shard) == sorted(table.video_ids.to_pylist())
        for index, shard in enumerate(shards):
            numbers = [int(video.video_id[1:]) for video in shard]
            assert numbers == sorted(numbers)
            assert {int(shard_of(f"v{number}"), 16) // (256 // count) for number in numbers} == {index}


# Questions


def test_the_first_videos_of_a_table(tmp_path: Path) -> None:
    """In its order, of a folder by name; more than there are is all of them."""
    for name in ("b.mp4", "a.mp4", "c.mp4"):
        (tmp_path / name).touch()
    table = read_videos(str(tmp_path))
    found = [[video.video_id for video in table.first(count)] for count in (1, 2, 9, None)]
    assert found == [["a.mp4"], ["a.mp4", "b.mp4"], ["a.mp4", "b.mp4", "c.mp4"], ["a.mp4", "b.mp4", "c.mp4"]]
    assert len(table.first(2)) == 2


def test_the_four_ways_to_write_questions_say_the_same(tmp_path: Path) -> None:
    """Parquet, CSV, JSON Lines, or in the job itself."""
    rows: Rows = [
        {"question_id": "001", "question": "Which {title}?", "options": ["red, dark", "blue"], "answer": "1",
         "video_id": None},
        {"question_id": "when", "question": 'Say "when"\nor not', "options": None, "answer": "2026-01-31",
         "video_id": "b"},
    ]  # fmt: skip
    expected = [
        Question("001", "Which {title}?", ("red, dark", "blue"), "1"),
        Question("when", 'Say "when"\nor not', None, "2026-01-31", "b"),
    ]
    csv = write_csv(
        tmp_path / "q.csv",
        "question_id,question,options,answer,video_id",
        '001,Which {title}?,"[""red, dark"", ""blue""]",1,',
        'when,"Say ""when""\nor not",,2026-01-31,b',
    )
    for source in (csv, write_jsonl(tmp_path / "q.jsonl", rows), write_parquet(tmp_path / "q.parquet", rows), rows):
        table = questions_of(source)
        assert table.for_video("b") == expected, source
        assert table.for_video("a") == expected[:1], source
        assert table.columns == {"title"}


def test_a_question_without_an_id_is_named_by_what_it_asks() -> None:
    """The same text and options have the same id anywhere; another text or another option another one."""
    rows = [{"question": "What?"}, {"question": "What?", "options": ["a", "b"]}, {"question": "Why?"}]
    ids = [question.question_id for question in questions_of(rows).for_video("a")]
    assert len(set(ids)) == 3
    assert [question.question_id for question in questions_of(rows[::-1]).for_video("a")] == ids[::-1]


def test_numbers_as_question_ids_are_their_text(tmp_path: Path) -> None:
    """In files that have numbers."""
    rows = [{"question_id": 7, "question": "What?", "answer": 3}]
    for path in (write_jsonl(tmp_path / "q.jsonl", rows), write_parquet(tmp_path / "q.parquet", rows)):
        (question,) = questions_of(path).for_video("a")
        assert (question.question_id, question.expected_answer) == ("7", "3")


def test_questions_of_one_video_come_after_those_of_all() -> None:
    """In the order of the table; the same id may stand for one question a video."""
    rows = [
        {"question_id": "own", "question": "A?", "video_id": "a"},
        {"question_id": "all", "question": "All?"},
        {"question_id": "own", "question": "B?", "video_id": "b"},
    ]
    table = questions_of(rows)
    assert [question.template for question in table.for_video("a")] == ["All?", "A?"]
    assert [question.template for question in table.for_video("b")] == ["All?", "B?"]
    assert [question.template for question in table.for_video("elsewhere")] == ["All?"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["question_id,question", "a,What?", "b,Why?", "a,When?"], "question_id 'a' occurs twice, in rows 1 and 3"),
        (["question", "What?", "Why?", "What?"], r"question_id '\w+' occurs twice, in rows 1 and 3"),
        (["question_id,question,video_id", "q,A?,a", "q,All?,"], "question_id 'q' occurs twice, in rows 1 and 2"),
        (["question_id,question,video_id", "q,All?,", "q,A?,a"], "question_id 'q' occurs twice, in rows 1 and 2"),
        (["question_id,question,video_id", "q,A?,a", "q,B?,b", "q,A!,a"], "'q' occurs twice, in rows 1 and 3"),
        (["question_id,text", "a,What?"], "unknown column 'text'; known columns: question, question_id, options"),
        (["qestion", "What?"], "unknown column 'qestion'; did you mean 'question'?"),
        (["question,option", "What?,x"], "unknown column 'option'; did you mean 'options'?"),
        (["question_id", "a"], r"has no column 'question'; its columns are \['question_id'\]"),
        (["question_id,question", "a,What?", "b,"], "row 2: question: "),
        (["question_id,question", "a,What?", 'b,"  "'], "row 2: question: "),
        (["question,options", "What?,red or blue"], r"row 1: options: 'red or blue' is not a JSON list such as \["),
        (["question,options", 'What?,"{""a"": 1}"'], "row 1: options: .* is not a JSON list"),
        (["question,options", 'What?,"[""only one""]"'], "row 1: options: "),
        (["question", "What is {titel}?"],
         r"row 1: the question uses {titel}, which is not a column .*title, video_id"),
        (["question", "What is {}?"], "row 1: the question uses {}, which is not a column"),
        (["question", "What is {title.__class__}?"],
         "row 1: the question uses {title.__class__}, which is not a column"),
        (["question", "What is {title!r}?"], "row 1: the question formats {title}: only a plain"),
        (["question", "A set {title?"], "row 1: question: .*write {{ and }} for literal braces"),
        (["question,video_id", "What?,a", "What?,c"], "row 2: video_id 'c' is not in the videos table"),
        (["question"], "has no questions"),
        (["question_id"], "has no questions"),
    ],
)  # fmt: skip
def test_a_questions_table_with_a_fault(tmp_path: Path, lines: list[str], message: str) -> None:
    """The message names the file, and the row or the column."""
    table = write_csv(tmp_path / "q.csv", *lines)
    with pytest.raises(InputTableError, match=message) as caught:
        questions_of(table)
    assert str(caught.value).startswith(table)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "questions: has no questions"),
        ([{"question": "A?", "question_id": "q"}, {"question": "B?", "question_id": "q"}], "rows 1 and 2"),
        ([{"question": "What is {titel}?"}], r"questions, row 1: the question uses {titel}"),
        ([{"question": "A?", "video_id": "c"}], "questions, row 1: video_id 'c'"),
    ],
)
def test_questions_in_the_job_are_checked_alike(rows: Rows, message: str) -> None:
    """They are rows of a table that has no file."""
    with pytest.raises(InputTableError, match=message):
        questions_of(rows)


def test_questions_that_are_not_there(tmp_path: Path) -> None:
    """No such file, or not a table at all."""
    with pytest.raises(InputTableError, match=r"nowhere\.csv: no such file"):
        questions_of(str(tmp_path / "nowhere.csv"))
    with pytest.raises(InputTableError, match=r"q\.txt: is no table: give a file or a glob that ends in \.parquet"):
        questions_of(str(tmp_path / "q.txt"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputTableError, match=r"empty\.jsonl: has no questions"):
        questions_of(str(tmp_path / "empty.jsonl"))
