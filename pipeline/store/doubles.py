"""Choose one answer where the ledger holds two of the same clip and question; every reader uses this function."""

from collections.abc import Sequence

from pipeline.store.parquet import Row

# Columns that `without_doubles` needs.
COLUMNS = ("clip_id", "question_id", "epoch", "run_id")


def without_doubles(rows: Sequence[Row]) -> list[int]:
    """Return the indices of the answers that count, ascending: one for each clip and question.

    An answer stands twice if a driver that was paused wrote after another one had taken its lease over
    (docs/guarantees.md, known limits). The one written under the higher epoch of the lease counts; of equal epochs, the
    one of the later run. Answers of versions that did not record the epoch (null) count as the lowest.

    Args:
        rows: Rows with the columns `COLUMNS`; they must include every answer of each of their clips.
    """
    chosen: dict[tuple[str, str], tuple[int, str, int]] = {}
    for number, row in enumerate(rows):
        key = (row["clip_id"], row["question_id"])
        rank = (-1 if row["epoch"] is None else row["epoch"], row["run_id"], number)
        chosen[key] = max(chosen.get(key, rank), rank)
    return sorted(number for _, _, number in chosen.values())
