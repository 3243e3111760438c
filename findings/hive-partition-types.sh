#!/usr/bin/env bash
# Hive partitions: DuckDB reads a folder `snr=inf` as the date 9999-12-31, and pyarrow a folder `shard=08` as 8, but only in some datasets.
#
# Guess:    Values in the names of folders are text, or become numbers if all of them are plain numbers. Two readers of one dataset
#           agree, and a query for `08` finds the folder `shard=08`.
# Surprise: In DuckDB `inf`, `-inf` and `epoch` are dates if every folder has such a name; with a folder `snr=10` next to it, all are
#           text again. It reads `0x1f` and `0b1` as 31 and 1, but keeps the leading zero of `08`. pyarrow reads `08` as 8 and `0x1f` as
#           31, but `0b1` and `3000000000` as text: it has only 32-bit integers here. One folder more changes the type of a column.
# Matters:  Datasets split by signal-to-noise ratio, by hexadecimal shard or by a numeric id. A job that reads one day's folders gets
#           another schema than the next, joins between two such tables fail or find nothing, and leading zeros are lost.
# Do:       Name the types: `hive_types = {'snr': VARCHAR}` or `hive_types_autocast = false` in DuckDB,
#           `ds.partitioning(schema, flavor="hive")` in pyarrow, and the same object as `partitioning=` in pandas.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps duckdb==2.0.0 pyarrow==26.0.1

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import os
import sys
from importlib.metadata import version

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

print(*(f"{name} {version(name)}" for name in ("duckdb", "pyarrow")), sep=", ")


def read(number: int, folders: list[str]) -> tuple[tuple[str, list[str]], tuple[str, list[str]]]:
    """The type of the partition column and its values, by DuckDB and by pyarrow."""
    root = f"dataset-{number}"
    for folder in folders:
        os.makedirs(f"{root}/part={folder}")
        pq.write_table(pa.table({"clip": [folder]}), f"{root}/part={folder}/0.parquet")
    query = f"SELECT clip, typeof(part), part::VARCHAR FROM read_parquet('{root}/**/*.parquet', hive_partitioning = true)"
    rows = sorted(duckdb.sql(query).fetchall())
    table = ds.dataset(root, partitioning="hive").to_table().sort_by("clip")
    return (rows[0][1], [row[2] for row in rows]), (str(table["part"].type), [str(v) for v in table["part"].to_pylist()])


cases = {
    ("inf",): (("DATE", ["infinity"]), ("string", ["inf"])),
    ("epoch",): (("DATE", ["1970-01-01"]), ("string", ["epoch"])),
    ("10", "inf"): (("VARCHAR", ["10", "inf"]), ("string", ["10", "inf"])),
    ("08",): (("VARCHAR", ["08"]), ("int32", ["8"])),
    ("08", "0a"): (("VARCHAR", ["08", "0a"]), ("string", ["08", "0a"])),
    ("0x1f",): (("BIGINT", ["31"]), ("int32", ["31"])),
    ("0b1",): (("BIGINT", ["1"]), ("string", ["0b1"])),
    ("3000000000",): (("BIGINT", ["3000000000"]), ("string", ["3000000000"])),
}
unchanged = True
for number, (folders, expected) in enumerate(cases.items()):
    found = read(number, list(folders))
    unchanged &= found == expected
    word = "as described" if found == expected else "CHANGED"
    names = ", ".join(f"part={folder}" for folder in folders)
    print(f"{word}: {names}: DuckDB {found[0][0]} {found[0][1]}, pyarrow {found[1][0]} {found[1][1]}")
sys.exit(0 if unchanged else 1)
PYTHON
