"""Which answers count today, against a plain reading of the rule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.results import KEY, latest_rows

ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "video_id": st.sampled_from("ab"),
            "start_s": st.sampled_from([None, 0.0, 2.0]),
            "end_s": st.sampled_from([None, 2.0]),
            "question_id": st.sampled_from("xy"),
            "source_id": st.sampled_from([None, "s", "t"]),
            "run_id": st.sampled_from(["1", "2", "3"]),
        }
    ),
    max_size=12,
)


@given(ROWS)
def test_the_last_of_the_last_file(rows: list[dict[str, object]]) -> None:
    """Ties within a run go to the last row."""
    numbered = [{**row, "number": number} for number, row in enumerate(rows)]
    by_age = sorted(numbered, key=lambda row: (row["run_id"], row["number"]))
    last_file = {row["video_id"]: row["source_id"] for row in by_age if row["source_id"] is not None}
    wanted = {
        tuple(row[name] for name in KEY): row["number"]
        for row in by_age
        if row["source_id"] == last_file.get(row["video_id"])
    }
    assert latest_rows(rows) == sorted(wanted.values())
