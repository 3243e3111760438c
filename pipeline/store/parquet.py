"""Encode tables as Parquet in memory and decode them, so that storage handles only whole objects."""

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

Row = Mapping[str, Any]


def to_bytes(rows: Sequence[Row], schema: pa.Schema) -> bytes:
    """Encode rows as one Parquet file.

    Raises:
        KeyError: a row has a column that the schema lacks. Arrow would drop it silently.
    """
    for row in rows:
        if unknown := row.keys() - set(schema.names):
            raise KeyError(f"columns not in the schema: {sorted(unknown)}")
    return table_to_bytes(pa.Table.from_pylist(list(rows), schema=schema))


def table_to_bytes(table: pa.Table) -> bytes:
    """Encode an Arrow table as one Parquet file with page checksums."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table. They are converted part by part, since Python objects take much more memory."""
    for batch in table.to_batches():
        yield from batch.to_pylist()


def from_bytes(content: bytes) -> pa.Table:
    """Decode one Parquet file and verify its checksums.

    Raises:
        OSError: the bytes do not match their checksum.
        pyarrow.ArrowInvalid: the content is not a Parquet file.
    """
    return _read(pa.BufferReader(content))


def read_columns(file: IO[bytes], schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """Read some columns of an open Parquet file and verify their checksums. Other columns are not read.

    Args:
        file: The file.
        schema: Types of the columns; a column that the file lacks is null.
        columns: Names, in the order of the result.

    Raises:
        OSError: the bytes do not match their checksum.
        pyarrow.ArrowInvalid: the content is not a Parquet file.
    """
    table = _read(file, columns)
    schema = pa.schema([schema.field(name) for name in columns])
    # pq.read_table and pyarrow.dataset import pandas, which most processes never need.
    arrays = [
        table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _read(file: IO[bytes] | pa.BufferReader, columns: Sequence[str] | None = None) -> pa.Table:
    # No threads: an Arrow thread that drops the last reference to the bytes while Python shuts down aborts the process.
    return pq.ParquetFile(file, page_checksum_verification=True).read(columns, use_threads=False)
