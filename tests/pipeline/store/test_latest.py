"""Which answers count today, against a plain reading of the rule."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.store.doubles import without_doubles
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
            "epoch": st.sampled_from([None, 1, 2]),
        }
    ).map(lambda row: {**row, "clip_id": f"{row['video_id']} {row['source_id']} {row['start_s']} {row['end_s']}"}),
    max_size=12,
)


def counting(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """The rows that no other row of their clip and question beats, each with its number."""
    numbered = [{**row, "number": number} for number, row in enumerate(rows)]

    def beats(one: dict[str, object], other: dict[str, object]) -> bool:
        if (one["clip_id"], one["question_id"]) != (other["clip_id"], other["question_id"]):
            return False
        if one["epoch"] != other["epoch"]:
            return other["epoch"] is None or (one["epoch"] is not None and one["epoch"] > other["epoch"])
        return (one["run_id"], one["number"]) > (other["run_id"], other["number"])

    return [row for row in numbered if not any(beats(other, row) for other in numbered)]


@given(ROWS)
def test_of_two_answers_that_of_the_higher_epoch_counts(rows: list[dict[str, object]]) -> None:
    """Whatever the clocks of two hosts make of their run ids; without an epoch, it was written before any with one."""
    assert without_doubles(rows) == [row["number"] for row in counting(rows)]


@given(ROWS)
def test_the_last_of_the_last_file(rows: list[dict[str, object]]) -> None:
    """Of what counts; ties within a run go to the last row."""
    by_age = sorted(counting(rows), key=lambda row: (row["run_id"], row["number"]))
    last_file = {row["video_id"]: row["source_id"] for row in by_age if row["source_id"] is not None}
    wanted = {
        tuple(row[name] for name in KEY): row["number"]
        for row in by_age
        if row["source_id"] == last_file.get(row["video_id"])
    }
    assert latest_rows(rows) == sorted(wanted.values())
