"""Parquet in memory: one table to bytes and back, so that storage sees whole objects only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import IO, Any

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
    return _read(pa.BufferReader(content))


def read_columns(file: IO[bytes], schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """Read some columns of an open Parquet file, checksums included, without the bytes of the others.

    Args:
        file: The file.
        schema: Types of the columns; one that the file lacks is null.
        columns: Names, in the order of the result.

    Raises:
        OSError: the bytes have changed.
        pyarrow.ArrowInvalid: not a Parquet file.
    """
    table = _read(file, columns)
    schema = pa.schema([schema.field(name) for name in columns])
    # Neither pq.read_table nor pyarrow.dataset: they import pandas, which most processes never need.
    arrays = [
        table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _read(file: IO[bytes] | pa.BufferReader, columns: Sequence[str] | None = None) -> pa.Table:
    # Without threads: one of Arrow's may give up its last reference to the bytes while Python ends, and abort it.
    return pq.ParquetFile(file, page_checksum_verification=True).read(columns, use_threads=False)
