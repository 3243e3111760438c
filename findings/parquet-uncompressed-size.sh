#!/usr/bin/env bash
# Parquet: `total_uncompressed_size` of a column chunk says 10 kB where reading it takes 200 MB, with no compression involved.
#
# Guess:    The metadata field `total_uncompressed_size`, and `total_byte_size` of the row group, say about how much memory the column
#           takes when it is read: this is what it is for, as `total_compressed_size` is for what is fetched.
# Surprise: It is the size of the encoded pages before compression, and a dictionary page holds each value once. 20,000 rows of one
#           prompt of 10 kB count as 10 kB; the Arrow column takes 200 MB. Written without a dictionary, it counts 200 MB.
#           `read_dictionary=[...]` keeps it small in memory.
# Matters:  Batch sizes and memory limits that are derived from the metadata are wrong by a factor of thousands exactly
#           where a column repeats a long value: a system prompt, a schema, a caption per video.
# Do:       Read such columns with `read_dictionary`, or bound the rows that are read at once (`iter_batches(batch_size=...)`).
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps pyarrow==26.0.1

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import pyarrow as pa
import pyarrow.parquet as pq

print(f"pyarrow {version('pyarrow')}")
ROWS, PROMPT = 20_000, "word " * 2_000
table = pa.table({"prompt": [PROMPT] * ROWS})
for name, dictionary in (("dictionary", True), ("plain", False)):
    pq.write_table(table, f"{name}.parquet", use_dictionary=dictionary, compression="none")


def sizes(name: str) -> tuple[int, int]:
    """`total_uncompressed_size` of the column and `total_byte_size` of the row groups, summed over the row groups."""
    metadata = pq.ParquetFile(f"{name}.parquet").metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return sum(g.column(0).total_uncompressed_size for g in groups), sum(g.total_byte_size for g in groups)


(uncompressed, group), (plain, _) = sizes("dictionary"), sizes("plain")
read = pq.read_table("dictionary.parquet").nbytes
kept = pq.read_table("dictionary.parquet", read_dictionary=["prompt"]).nbytes
print(f"metadata, with a dictionary: column {uncompressed:,} bytes, row group {group:,}; without: {plain:,}")
print(f"in memory: {read:,} bytes; as a dictionary {kept:,}")
expected = {
    "the metadata count about one value": len(PROMPT) <= uncompressed == group < 2 * len(PROMPT),
    "in memory it takes every value": read > ROWS * len(PROMPT),
    "a file without a dictionary counts every value": plain > ROWS * len(PROMPT),
    "read_dictionary keeps one value": kept < len(PROMPT) + 8 * ROWS,
}
for text, holds in expected.items():
    print("as described:" if holds else "CHANGED:", text)
sys.exit(0 if all(expected.values()) else 1)
PYTHON
