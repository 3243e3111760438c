"""Find garbage: tokens of fingerprints that no run record names, and abandoned uploads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

# No writer of this project takes this long for one object.
_ABANDONED = timedelta(hours=1)
_ABANDONED_UPLOAD = "an abandoned upload, more than an hour old"


@dataclass(frozen=True)
class Piece:
    """An object or an upload that can be removed.

    Attributes:
        name: Name of the object or the upload.
        why: Why it is garbage.
        size_bytes: Size of the object; 0 for a multipart upload, whose parts are not listed.
        remove: Removes it.
    """

    name: str
    why: str
    size_bytes: int
    remove: Callable[[], object]


def find_garbage(root: Storage, used_by: Sequence[Storage] = (), *, now: datetime | None = None) -> list[Piece]:
    """Return everything below an output or a cache that no run needs. Nothing is removed.

    Args:
        root: An output or a cache.
        used_by: Outputs other than `root` whose runs may use the tokens in it.
        now: Current time; default: the clock's. Tests set it.

    Raises:
        ConfigurationError: `root` and `used_by` have no run records, so nothing tells which tokens are in use.
        NewerFormatError: see `RunRecords.all`.
    """
    runs = [run for storage in (root, *used_by) for run in RunRecords(storage).all()]
    if not runs:
        raise ConfigurationError("has no run records: name the outputs that use this cache with --used-by", root.url)
    named = {run["tokens_fingerprint"] for run in runs}
    tokens = [
        Piece(name, "tokens of a fingerprint that no run record names", size, partial(root.remove, name))
        for name, size in root.sizes("tokens").items()
        if name.split("/")[1].removeprefix("fingerprint=") not in named
    ]
    before = (now or datetime.now(UTC)) - _ABANDONED
    temporary = [
        Piece(name, _ABANDONED_UPLOAD, size, partial(root.remove, name))
        for name, (size, written) in root.temporary_objects().items()
        if written < before
    ]
    return [*tokens, *temporary, *_unfinished_uploads(root, before)]


def _unfinished_uploads(root: Storage, before: datetime) -> list[Piece]:
    """Return multipart uploads on S3 that were started before a time and not completed.

    S3 does not list them as objects, but charges for them.
    """
    fs: Any = root.fs
    if not hasattr(fs, "list_multipart_uploads"):
        return []
    bucket, prefix, _ = fs.split_path(root.path(""))
    return [
        Piece(
            upload["Key"].removeprefix(prefix),
            _ABANDONED_UPLOAD,
            0,
            partial(fs.abort_mpu, bucket, upload["Key"], upload["UploadId"]),
        )
        for upload in fs.list_multipart_uploads(bucket)
        if upload["Key"].startswith(prefix) and upload["Initiated"] < before
    ]
