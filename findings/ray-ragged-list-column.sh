#!/usr/bin/env bash
# Ray Data: after an identity map_batches, one longer row turns a list column into a struct in the Parquet output.
#
# Guess:    `read_parquet(...).map_batches(lambda batch: batch).write_parquet(...)` writes the columns with the types that they had. If
#           the default batch format changed a type, it would do so for every dataset with that schema.
# Surprise: The type of a list<int64> column in the output depends on the values. If all lists have one length, the column is written as
#           a list (large_list<int64>). If one list differs in length, it is written as struct<data: large_list<int64>, shape:
#           list<int64>>: the storage of a tensor type that only Ray knows. Ray reads it back as before; pyarrow sees a struct.
#           With `batch_format="pandas"` or "pyarrow" both stay list<int64>.
# Matters:  Two runs of one job write Parquet that does not concatenate, decided by whether all clips of a run had equally many
#           tokens. A reader outside Ray that iterates the column gets a dict with the keys `data` and `shape` where it had a list.
# Do:       Use batch_format="pyarrow" in stages that pass list columns on, or write the rows with pyarrow and a fixed schema.
set -euo pipefail

work=$(mktemp -d -p /tmp) # short, because the paths of Ray's sockets are limited in length
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    "ray[data]==2.60.0" pyarrow==26.0.1 pandas==3.1.1 numpy==2.4.6 fsspec==2026.9.0

cd "$work"
# Ray on 127.0.0.1 only (what the first variable does on any system), with a token of its own.
RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 RAY_AUTH_MODE=token RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n') \
RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" - <<'PYTHON'
import logging
import os
import subprocess
import sys
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data

print(*(f"{name} {version(name)}" for name in ("ray", "pyarrow", "pandas", "numpy")), sep=", ")
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR,
         _temp_dir=f"{os.getcwd()}/r")  # fmt: skip
logging.getLogger("ray.data").setLevel(logging.ERROR)
ray.data.DataContext.get_current().enable_progress_bars = False

LISTS = {"equal": [[1, 2], [3, 4], [5, 6]], "ragged": [[1, 2], [3, 4], [5, 6, 7]]}


# A process that has not imported Ray: Ray's tensor types are unknown there, as they are to other readers.
READER = """
import sys, pyarrow.parquet as pq
field, rows = pq.read_table(sys.argv[1]).schema.field("indices"), pq.read_table(sys.argv[1])["indices"].to_pylist()
print(field.type, "| last row", rows[-1])
"""


def round_trip(name: str, batch_format: str) -> str:
    """The type and the last row of a list column after an identity map_batches and Parquet, read by pyarrow alone."""
    source, target = f"{os.getcwd()}/{name}.parquet", f"{os.getcwd()}/{name}-{batch_format}"
    pq.write_table(pa.table({"indices": pa.array(LISTS[name], pa.list_(pa.int64()))}), source)
    dataset = ray.data.read_parquet(source).map_batches(lambda batch: batch, batch_format=batch_format)
    dataset.write_parquet(target)
    command = [sys.executable, "-c", READER, target]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


unchanged = True
for batch_format, name, is_list in (
    ("numpy", "equal", True), ("numpy", "ragged", False),
    ("pandas", "equal", True), ("pandas", "ragged", True),
    ("pyarrow", "equal", True), ("pyarrow", "ragged", True),
):  # fmt: skip
    found = round_trip(name, batch_format)
    holds = found.startswith(("list<", "large_list<") if is_list else "struct<")
    unchanged &= holds
    print(f"{'as described' if holds else 'CHANGED'}: {batch_format}, {name} lists: {found}")
ray.shutdown()
sys.exit(0 if unchanged else 1)
PYTHON
