"""`used-by/` in a cache: which outputs keep their tokens there, so that nobody takes them for garbage."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.store.keys import digest
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

_FOLDER = "used-by"


def note_cache_user(cache: Storage, output: Storage) -> None:
    """Leave word in a cache that an output uses it; before the first token of a run is committed there."""
    where = output.root if output.is_local else output.url
    name = f"{_FOLDER}/{digest('cache user', where, length=16)}.json"
    cache.add(name, json.dumps({"output": where}).encode())


def cache_users(cache: Storage, storage_options: Mapping[str, Any], gone: Collection[str] = ()) -> list[Storage]:
    """The outputs that have left word.

    Args:
        cache: The cache; an output that nobody shares has no users but itself.
        storage_options: Of the outputs.
        gone: Outputs, as they are named there, that do not exist any more.

    Raises:
        ConfigurationError: one of the others has no runs, seen from here: it may be on another machine.
    """
    found = []
    for name in cache.names(_FOLDER):
        where = json.loads(cache.read(name))["output"]
        if where in gone:
            continue
        found.append(Storage(where, storage_options))
        if not RunRecords(found[-1]).all():
            raise ConfigurationError(
                f"is used by {where}, which has no runs, seen from here: call gc where it can be read, "
                f"or with --gone {where} if it does not exist any more",
                cache.url,
            )
    return found
