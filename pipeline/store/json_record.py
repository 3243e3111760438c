"""Read a record on storage: an immutable JSON object below `runs/`, `lease/`, `retries/` or `used-by/`."""

from typing import Any

from flashvid.bounded_json import parse_json
from flashvid.errors import ConfigurationError
from pipeline.store.storage import Storage

# Run records hold the questions of their job; the job file has at most 8 MiB.
_MAX_BYTES = 64 << 20


def read_record(storage: Storage, name: str) -> dict[str, Any]:
    """Return the content of a record.

    Raises:
        ConfigurationError: the object is not a record: it is damaged, or another program wrote it.
        FileNotFoundError: there is no such object.
    """
    content = storage.read(name)
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError(f"{len(content):,} bytes, more than {_MAX_BYTES:,}")
        record = parse_json(content)
    except ValueError as error:
        raise ConfigurationError(f"is not a record that a run can read: {error}", storage.path(name)) from None
    if not isinstance(record, dict):
        raise ConfigurationError("is not a record that a run can read: not a JSON object", storage.path(name))
    return record
