"""Encode tables as Parquet in memory and decode them, so that storage handles only whole objects."""

from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from flashvid.errors import first_line
from pipeline.store import schemas

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


class DamagedParquetError(ValueError):
    """The bytes are not a Parquet file as it was written."""


def from_bytes(content: bytes, schema: pa.Schema | None = None) -> pa.Table:
    """Decode one Parquet file with all its columns and verify its checksums.

    Args:
        content: The file.
        schema: A schema of `pipeline.store.schemas` whose columns it must have; None for a table of any columns.

    Raises:
        DamagedParquetError: the content is not a Parquet file, does not match its checksums, or lacks a column.
    """
    return _read(pa.BufferReader(content), schema)


def read_columns(file: IO[bytes], schema: pa.Schema, columns: Sequence[str]) -> pa.Table:
    """Read some columns of an open Parquet file and verify their checksums. Other columns are not read.

    Args:
        file: The file.
        schema: A schema of `pipeline.store.schemas`; those of its later columns that the file lacks are null.
        columns: Names, in the order of the result.

    Raises:
        DamagedParquetError: the content is not a Parquet file, does not match its checksums, or lacks a column.
        OSError: the file can't be read; its errno says why.
    """
    table = _read(file, schema, columns)
    schema = pa.schema([schema.field(name) for name in columns])
    # pq.read_table and pyarrow.dataset import pandas, which most processes never need.
    arrays = [
        table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _read(
    file: IO[bytes] | pa.BufferReader, schema: pa.Schema | None, columns: Sequence[str] | None = None
) -> pa.Table:
    try:
        parquet = pq.ParquetFile(file, page_checksum_verification=True)
        if schema is not None:
            _check_columns(parquet.schema_arrow, schema)
        # No threads: an Arrow thread that drops the last reference to the bytes while Python shuts down aborts the
        # process.
        table = parquet.read(columns, use_threads=False)
        if table.num_rows != parquet.metadata.num_rows:
            raise ValueError(f"{table.num_rows} rows, but its footer announces {parquet.metadata.num_rows}")
    except OSError as error:
        if error.errno is not None:
            raise
        raise DamagedParquetError(first_line(error)) from error  # Arrow's error has no number
    except (pa.ArrowException, ValueError) as error:
        raise DamagedParquetError(first_line(error)) from error
    return table


def _check_columns(found: pa.Schema, schema: pa.Schema) -> None:
    """Check the names and types of a file's columns: its checksums cover only the values.

    A file of an earlier version lacks later columns, one of a later version has unknown ones. One that lacks a column
    and has an unknown one has a damaged name.

    Raises:
        ValueError: a column is missing or has another type.
    """
    missing, unknown = set(schema.names) - set(found.names), set(found.names) - set(schema.names)
    if not unknown:
        missing -= schemas.LATER_COLUMNS[schema]
    if missing:
        also = f", but unknown ones: {sorted(unknown)}" if unknown else ""
        raise ValueError(f"it has no columns {sorted(missing)}{also}")
    for name in set(found.names) & set(schema.names):
        if found.field(name).type != schema.field(name).type:
            raise ValueError(f"its column {name} is {found.field(name).type}, not {schema.field(name).type}")
