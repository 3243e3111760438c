#!/usr/bin/env bash
# fsspec and pyarrow: Parquet written inside an fsspec transaction is not part of it, if the filesystem is the local one.
#
# Guess:    `pq.write_table(table, path, filesystem=fs)` writes through the fsspec filesystem that it is given. Inside
#           `with fs.transaction:` the file appears at the end, and an exception discards it.
# Surprise: pyarrow replaces an fsspec LocalFileSystem by its own local filesystem. The file is visible at once, and it stays after the
#           exception. A subclass with another name is not replaced: the same call is then part of the transaction. So is a write to
#           a file that `fs.open` opened, or through an explicit FSSpecHandler.
# Matters:  A job that relies on the transaction leaves half of its output after a failure, and a reader sees files of a commit
#           that never happened. Other features of the given object (a cache, logging) are bypassed as well.
# Do:       Pass pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fs)), or open the file with `fs.open` and give pyarrow the file.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps fsspec==2026.9.0 pyarrow==26.0.1

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import os
import sys
from collections.abc import Callable
from importlib.metadata import version

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

print(*(f"{name} {version(name)}" for name in ("fsspec", "pyarrow")), sep=", ")
TABLE = pa.table({"clip": ["a", "b"], "tokens": [196, 169]})


class OwnFileSystem(LocalFileSystem):
    """A subclass that changes nothing."""


def failed_transaction(fs: LocalFileSystem, name: str, write: Callable[[str], object]) -> tuple[bool, bool]:
    """Write inside a transaction that fails: whether the file was visible before, and is there after."""
    path = os.path.join(os.getcwd(), name)
    try:
        with fs.transaction:
            write(path)
            visible = os.path.exists(path)
            raise RuntimeError("the job fails here")
    except RuntimeError:
        return visible, os.path.exists(path)


def through_open_file(path: str) -> None:
    with local.open(path, "wb") as file:
        pq.write_table(TABLE, file)


local, own = LocalFileSystem(), OwnFileSystem()
handler = PyFileSystem(FSSpecHandler(local))
cases = [
    ("pq.write_table(filesystem=LocalFileSystem())", local,
     lambda path: pq.write_table(TABLE, path, filesystem=local), True),
    ("ds.write_dataset(filesystem=LocalFileSystem())", local,
     lambda path: ds.write_dataset(TABLE, path, format="parquet", filesystem=local), True),
    ("pq.write_table(filesystem=a subclass)", own, lambda path: pq.write_table(TABLE, path, filesystem=own), False),
    ("pq.write_table(filesystem=FSSpecHandler)", local,
     lambda path: pq.write_table(TABLE, path, filesystem=handler), False),
    ("pq.write_table(a file of fs.open)", local, through_open_file, False),
]  # fmt: skip
unchanged = True
for number, (name, fs, write, escapes) in enumerate(cases):
    visible, left = failed_transaction(fs, f"output-{number}", write)
    holds = visible == left == escapes
    unchanged &= holds
    print(f"{'as described' if holds else 'CHANGED'}: {name}: visible inside {visible}, left after the failure {left}")
sys.exit(0 if unchanged else 1)
PYTHON
