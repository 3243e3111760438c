"""Which of the committed answers count today, told once for readers, reports and exports."""

from __future__ import annotations

import pyarrow as pa

# One question of one span of one video.
KEY = ("video_id", "start_s", "end_s", "question_id")
# What `latest_answers` looks at besides.
ORDER = ("source_id", "run_id")


def latest_answers(table: pa.Table) -> pa.Table:
    """Of answers with the same key, the one of the latest run; of a replaced file, none.

    Args:
        table: With the columns `KEY` and `ORDER`, and every answer of each of its videos.

    Returns:
        Rows of the table, in its order. Rows of one run are equal work, and any of them will do.
    """
    # "run_id" sorts by the time a run began.
    numbered = table.select([*KEY, *ORDER]).append_column("row", pa.array(range(table.num_rows), pa.int64()))
    numbered = numbered.sort_by([("run_id", "ascending"), ("row", "ascending")])
    last_file = numbered.group_by("video_id", use_threads=False).aggregate([("source_id", "last")])
    numbered = numbered.append_column("source", numbered["source_id"].fill_null(""))
    last_file = last_file.append_column("source", last_file["source_id_last"].fill_null("")).drop_columns(
        "source_id_last"
    )
    current = numbered.join(last_file, keys=["video_id", "source"], join_type="left semi")
    current = current.sort_by([("run_id", "ascending"), ("row", "ascending")])
    kept = current.group_by([*KEY], use_threads=False).aggregate([("row", "last")])
    return table.take(kept["row_last"].combine_chunks().sort())
