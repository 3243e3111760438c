"""Record in `used-by/` of a cache which outputs keep their tokens there, so that `gc` does not remove them."""

import json
from collections.abc import Collection, Mapping
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.store.json_record import check_name, read_record
from pipeline.store.keys import digest
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

FOLDER = "used-by"


def note_cache_user(cache: Storage, output: Storage) -> None:
    """Record in a cache that an output uses it. Call this before a run commits its first tokens there."""
    where = output.root if output.is_local else output.url
    cache.add(_name(where), json.dumps({"output": where}).encode())


def read_cache_user(cache: Storage, name: str) -> str:
    """Return the output that a record of `note_cache_user` names.

    Raises:
        DamagedObjectError: the record can't be read.
    """
    where: str = read_record(cache, name, {"output": str})["output"]
    check_name(cache, name, _name(where))
    return where


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
    for name in cache.names(FOLDER):
        where = read_cache_user(cache, name)
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


def _name(output: str) -> str:
    return f"{FOLDER}/{digest('cache user', output, length=16)}.json"
