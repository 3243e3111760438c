"""Parquet in memory: one table to bytes and back, so that storage sees whole objects only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = Mapping[str, Any]


def to_bytes(rows: Sequence[Row], schema: pa.Schema) -> bytes:
    """Encode rows as one Parquet file.

    Raises:
        KeyError: a row has a column that the schema lacks (a typing error would otherwise vanish silently).
    """
    for row in rows:
        if unknown := row.keys() - set(schema.names):
            raise KeyError(f"columns not in the schema: {sorted(unknown)}")
    return table_to_bytes(pa.Table.from_pylist(list(rows), schema=schema))


def table_to_bytes(table: pa.Table) -> bytes:
    """Encode an Arrow table as one Parquet file, with checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def from_bytes(content: bytes) -> pa.Table:
    """Decode one Parquet file, checksums included. Raises OSError where the bytes have changed."""
    # Not pq.read_table: a thread of Arrow may give up its last reference to the bytes while Python ends, and abort it.
    return pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True).read(use_threads=False)
