"""Record in `used-by/` of a cache which outputs keep their tokens there, so that `gc` does not remove them."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.store.json_record import read_record
from pipeline.store.keys import digest
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

_FOLDER = "used-by"


def note_cache_user(cache: Storage, output: Storage) -> None:
    """Record in a cache that an output uses it. Call this before a run commits its first tokens there."""
    where = output.root if output.is_local else output.url
    name = f"{_FOLDER}/{digest('cache user', where, length=16)}.json"
    cache.add(name, json.dumps({"output": where}).encode())


def cache_users(cache: Storage, storage_options: Mapping[str, Any], gone: Collection[str] = ()) -> list[Storage]:
    """Return the outputs that `note_cache_user` recorded.

    Args:
        cache: The cache; an output that only its own runs use has no such records.
        storage_options: Options for fsspec, used for every output.
        gone: Outputs that no longer exist, named as in the records; they are left out.

    Raises:
        ConfigurationError: another recorded output has no runs that this machine can see. It may be on the disk of
            another machine.
    """
    found = []
    for name in cache.names(_FOLDER):
        where = read_record(cache, name)["output"]
        if where in gone:
            continue
        found.append(Storage(where, storage_options))
        if not RunRecords(found[-1]).all():
            raise ConfigurationError(
                f"is used by {where}, where this machine finds no runs: run gc on a machine that can read {where}, "
                f"or add --gone {where} if that output no longer exists",
                cache.url,
            )
    return found
