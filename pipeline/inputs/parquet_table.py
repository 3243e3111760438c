"""Read a Parquet table that others wrote: kilobytes can hold gigabytes, so it is measured before it is unpacked."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.store.parquet import from_bytes

MOST_TIMES = 200
"""A table may unpack to this many times the size of its file, or to `SMALL_BYTES` if that is more."""
SMALL_BYTES = 64 << 20
_VALUE_BYTES = 8
_BATCH_ROWS = 65536
# This encoding stores what a value shares with the one before, and can't be read as a dictionary.
_PREFIXES = "DELTA_BYTE_ARRAY"


def read_parquet(content: bytes) -> pa.Table:
    """Decode one Parquet file and verify its checksums.

    Raises:
        ValueError: the table unpacks to more than `MOST_TIMES` the size of the file.
        DamagedParquetError: the content is not a Parquet file, or does not match its checksums.
    """
    most = max(MOST_TIMES * len(content), SMALL_BYTES)
    if _unpacks_to_more(content, most):
        raise ValueError(
            f"its {len(content):,} bytes unpack to more than {most:,}: leave out columns that repeat long values, or "
            "write the rows as .jsonl"
        )
    return from_bytes(content)


def _unpacks_to_more(content: bytes, most: int) -> bool:
    """Return whether a table takes more than `most` bytes; nothing much larger than that is ever in memory.

    Texts are read as entries of a dictionary, so that a repeated text takes memory once.
    """
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    metadata = file.metadata
    if sum(metadata.row_group(group).total_byte_size for group in range(metadata.num_row_groups)) > most:
        return True
    # If the description of a column chunk is damaged, pyarrow ends the process, unless reading a row raised before.
    for group in range(metadata.num_row_groups):
        next(file.iter_batches(batch_size=1, row_groups=[group], use_threads=False), None)
    chunks = [
        metadata.row_group(group).column(column)
        for group in range(metadata.num_row_groups)
        for column in range(metadata.num_columns)
    ]
    if sum(chunk.total_uncompressed_size for chunk in chunks) > most:
        return True
    if _VALUE_BYTES * sum(chunk.num_values for chunk in chunks) > most:
        return True
    prefixed = {chunk.path_in_schema for chunk in chunks if _PREFIXES in chunk.encodings}
    texts = {chunk.path_in_schema for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"}
    # Each value of such a column may be as long as the whole column.
    longest = max((chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in prefixed), default=0)
    at_once = max(1, min(_BATCH_ROWS, most // (longest + 1)))
    file = pq.ParquetFile(
        pa.BufferReader(content), read_dictionary=sorted(texts - prefixed), page_checksum_verification=True
    )
    size = 0
    for group in range(metadata.num_row_groups):
        # One group at a time: a nested column of several dictionaries can't be read. No threads, as in `from_bytes`.
        for batch in file.iter_batches(batch_size=at_once, row_groups=[group], use_threads=False):
            size += sum(_unpacked(column) for column in batch.columns)
            if size > most:
                return True
    return False


def _unpacked(column: pa.Array) -> int:
    """Return the bytes of a column if no value were shared."""
    if pa.types.is_dictionary(column.type):
        lengths = pc.binary_length(column.dictionary).take(column.indices)
        return (pc.sum(lengths).as_py() or 0) + _VALUE_BYTES * len(column)
    if pa.types.is_struct(column.type):
        return sum(_unpacked(part) for part in column.flatten())
    if pa.types.is_map(column.type):
        return _unpacked(column.keys) + _unpacked(column.items)
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        return _unpacked(column.flatten()) + _VALUE_BYTES * len(column)
    return int(column.nbytes)
