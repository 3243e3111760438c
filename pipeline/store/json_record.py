"""Read a record on storage: an immutable JSON object below `runs/`, `lease/`, `retries/` or `used-by/`."""

from collections.abc import Mapping
from types import UnionType
from typing import Any

from flashvid.bounded_json import parse_json
from pipeline.errors import DamagedObjectError
from pipeline.store.storage import Storage

# Run records hold the questions of their job; the job file has at most 8 MiB.
_MAX_BYTES = 64 << 20

Type = type | UnionType


def read_record(storage: Storage, name: str, keys: Mapping[str, Type]) -> dict[str, Any]:
    """Return the content of a record.

    Args:
        storage: The output or the cache.
        name: Name of the record.
        keys: Keys that it must have, and the types of their values.

    Raises:
        DamagedObjectError: the object is not such a record: it is damaged, or another program wrote it.
        FileNotFoundError: there is no such object.
    """
    content = storage.read(name)
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError(f"{len(content):,} bytes, more than {_MAX_BYTES:,}")
        record = parse_json(content)
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise DamagedObjectError(str(error), storage.url, name) from None
    check_keys(storage, name, record, keys)
    return record


def check_keys(storage: Storage, name: str, record: Mapping[str, Any], keys: Mapping[str, Type]) -> None:
    """Check that a record has keys with values of the right types.

    Raises:
        DamagedObjectError: it lacks one, or a value has another type.
    """
    for key, kind in keys.items():
        if key not in record or not isinstance(record[key], kind):
            raise DamagedObjectError(f"it has no {key}, or one of another type", storage.url, name)


def check_name(storage: Storage, name: str, expected: str) -> None:
    """Check that a record has the name that its content gives it.

    Raises:
        DamagedObjectError: it has another one, so one of the two is damaged.
    """
    if name != expected:
        raise DamagedObjectError(f"its content is that of {expected}", storage.url, name)
