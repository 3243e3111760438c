#!/usr/bin/env bash
# pandas: it can't read the partitioned Parquet that it has just written, if a value of the partition column is missing.
#
# Guess:    `df.to_parquet(folder, partition_cols=["language"])` and `pd.read_parquet(folder)` are inverse. A missing value goes to the
#           folder `language=__HIVE_DEFAULT_PARTITION__`, as in Hive and Spark, and comes back as a missing value.
# Surprise: Writing works, and the folder has that name. Reading ends with "ArrowInvalid: Cannot yet unify dictionaries with nulls".
#           Numbers, as years, fail in the same way, and a dataset where every value is missing with another error. Each single folder
#           can be read. `pyarrow.parquet.read_table` does not fail, but to_pandas() of its table does, since partition columns are
#           read as dictionaries. `pyarrow.dataset` reads the dataset.
# Matters:  One clip without a label in a table of a million makes the whole output unreadable for the usual call, after the run that
#           wrote it has ended without an error.
# Do:       `pd.read_parquet(folder, partitioning=ds.partitioning(schema, flavor="hive"))` with a plain type in the schema, or fill
#           missing values before you write.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check pandas==3.1.1 pyarrow==26.0.1 numpy==2.4.6

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import os
import sys
from collections.abc import Callable
from importlib.metadata import version

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

print(*(f"{name} {version(name)}" for name in ("pandas", "pyarrow")), sep=", ")
MESSAGE = "Cannot yet unify dictionaries with nulls"
DEFAULT = "language=__HIVE_DEFAULT_PARTITION__"


def write(name: str, values: list[object]) -> None:
    frame = pd.DataFrame({"clip": [f"clip-{number}" for number in range(len(values))], "language": values})
    frame.to_parquet(name, partition_cols=["language"])


def outcome(read: Callable[[], object]) -> str:
    """The values as text, sorted, or the error."""
    try:
        return str(sorted(map(str, read())))
    except pa.ArrowInvalid as error:
        return str(error)


write("some", ["en", None, "de"])
write("years", [2025, None, 2026])
write("none", [None, None])
write("full", ["en", "de"])
assert DEFAULT in os.listdir("some")
typed = ds.partitioning(pa.schema({"language": pa.string()}), flavor="hive")
cases = [
    ("pandas, all values present", lambda: pd.read_parquet("full")["language"], "['de', 'en']"),
    ("pandas, one value missing", lambda: pd.read_parquet("some")["language"], MESSAGE),
    ("pandas, one year missing", lambda: pd.read_parquet("years")["language"], MESSAGE),
    ("pandas, every value missing", lambda: pd.read_parquet("none")["language"],
     "No non-null segments were available for field 'language'; couldn't infer type"),
    ("pandas, the folder of the missing value alone", lambda: pd.read_parquet(f"some/{DEFAULT}")["clip"], "['clip-1']"),
    ("pq.read_table", lambda: [pq.read_table("some").num_rows], "['3']"),
    ("pq.read_table, to_pandas", lambda: pq.read_table("some").to_pandas()["language"], MESSAGE),
    ("pyarrow.dataset", lambda: ds.dataset("some", partitioning="hive").to_table()["language"].to_pylist(),
     "['None', 'de', 'en']"),
    ("pandas, with the type", lambda: pd.read_parquet("some", partitioning=typed)["language"].isna(),
     "['False', 'False', 'True']"),
]  # fmt: skip
unchanged = True
for name, read, expected in cases:
    found = outcome(read)
    unchanged &= found == expected
    print(f"{'as described' if found == expected else 'CHANGED'}: {name}: {found}")
sys.exit(0 if unchanged else 1)
PYTHON
