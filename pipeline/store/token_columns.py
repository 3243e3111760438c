"""Some columns of committed tokens, for looking at them: the tokens themselves, which are large, are not read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.storage import Storage
from pipeline.store.tokens import TokenStore


def read_token_columns(
    storage: Storage, fingerprint: str, content_key: str, columns: list[str]
) -> dict[str, Any] | None:
    """Columns of `tables.TOKENS` of one clip; None if it has no tokens, or an object that is damaged.

    Args:
        storage: Root of the tokens.
        fingerprint: The `tokens_fingerprint`.
        content_key: Of the clip.
        columns: Names.
    """
    path = storage.path(TokenStore(storage, fingerprint).name(content_key))
    try:
        with storage.fs.open(path, "rb") as file:
            rows: list[dict[str, Any]] = pq.read_table(file, columns=columns).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    except OSError as error:
        if error.errno is not None:
            raise
        return None  # Parquet's word for bytes that make no sense
    return rows[0] if len(rows) == 1 else None
