"""Which answers count today, against a plain reading of the rule."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.latest import KEY, ORDER, latest_answers

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "video_id": st.sampled_from("ab"),
            "start_s": st.sampled_from([None, 0.0, 2.0]),
            "end_s": st.sampled_from([None, 2.0]),
            "question_id": st.sampled_from("xy"),
            "source_id": st.sampled_from("st"),
            "run_id": st.sampled_from(["1", "2", "3"]),
        }
    ),
    max_size=12,
)
SCHEMA = pa.schema(
    [(name, pa.float64() if name.endswith("_s") else pa.string()) for name in (*KEY, *ORDER)] + [("number", pa.int64())]
)


@given(ROWS)
def test_the_last_of_the_last_file(rows: list[dict[str, object]]) -> None:
    """Ties within a run go to the row that stands last; rows keep their order."""
    numbered = [{**row, "number": number} for number, row in enumerate(rows)]
    by_age = sorted(numbered, key=lambda row: (row["run_id"], row["number"]))
    last_file = {row["video_id"]: row["source_id"] for row in by_age}
    wanted = {
        tuple(row[name] for name in KEY): row["number"]
        for row in by_age
        if row["source_id"] == last_file[row["video_id"]]
    }
    found = latest_answers(pa.Table.from_pylist(numbered, schema=SCHEMA))
    assert found["number"].to_pylist() == sorted(wanted.values())
    assert found.schema == SCHEMA
