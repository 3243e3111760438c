"""Tables of videos and questions in each format: odd cells, odd headers, and damaged bytes."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from pipeline.inputs.questions_table import read_questions
from pipeline.inputs.videos_table import read_videos
from tests.fuzz.kind import Kind, folder, mutated, refused

_NAMES = st.one_of(
    st.sampled_from(["video_id", "video_path", "start_s", "end_s", "question", "question_id", "options", "answer"]),
    st.text(max_size=5),
)
_SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6))
_CELLS = st.recursive(
    _SCALARS | st.sampled_from(["nan", "1e999", "[]"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
_ROWS = st.lists(st.dictionaries(_NAMES, _CELLS, max_size=5), max_size=4)
_GOOD = [{"video_id": "a", "video_path": "/a.mp4", "start_s": 1.0, "question": "What?", "answer": "yes"}]


def _csv(rows: list[dict[str, Any]]) -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([row.get(name) for name in names] for row in rows)
    return text.getvalue().encode("utf-8", "replace")


def _jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "\n".join(json.dumps(row) for row in rows).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.Table.from_pylist(rows), sink)
    except (pa.ArrowException, UnicodeError, OverflowError):
        return b"PAR1"
    return sink.getvalue().to_pybytes()


_FORMATS = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
_TABLES = st.one_of(
    *(
        st.tuples(st.just(suffix), st.one_of(_ROWS.map(write), mutated(write(_GOOD)), st.binary(max_size=40)))
        for suffix, write in _FORMATS.items()
    )
)


def check(table: tuple[str, bytes]) -> None:
    """Rows, or one message; the rows are those of the file, and reading them again gives the same."""
    suffix, content = table
    with folder() as place:
        path, good = place / f"table{suffix}", place / "good.csv"
        path.write_bytes(content)
        good.write_bytes(_csv([{"video_id": "a", "video_path": "/a.mp4"}]))

        def videos() -> object:
            return [vars(video) for video in read_videos(str(path))]

        first = refused(videos)
        assert repr(first) == repr(refused(videos))
        known = read_videos(str(good))
        refused(lambda: list(read_questions(str(path), known).for_video("a")))


TABLES = Kind(
    _TABLES,
    check,
    seeds=(
        (".csv", b"video_path,video_path\na,b\n"),
        (".csv", b"video_id,video_id\na,b\n"),
        (".csv", b"video_path\n\0\n"),
        (".csv", b'video_path\n"open\n'),
        (".csv", b""),
        (".jsonl", b'{"video_path": 18446744073709551616}'),
        (".jsonl", b'{"video_path": {"a": 1}}\n{"video_path": "x"}'),
        (".jsonl", b'{"video_path": NaN}'),
        (".jsonl", b'{"video_path": "\\ud800"}'),
        (".parquet", b"PAR1PAR1"),
        (".parquet", _parquet(_GOOD).replace(b"/a.mp4", b"/\xff.mp4")),
        # One of the footer's two names of a column.
        (".parquet", _parquet(_GOOD).replace(b"video_path", b"wideo_path", 1)),
        (".parquet", _parquet([{"video_path": ["a"]}])),
        (".parquet", _parquet([{"video_path": "a", "start_s": "x", "video_id": 1.5}])),
    ),
)
