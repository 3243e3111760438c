"""What nobody needs: tokens of fingerprints that no run names, and uploads whose writers are gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

# No writer of ours takes this long for one object.
_ABANDONED = timedelta(hours=1)
_ABANDONED_UPLOAD = "an upload whose writer is gone"


@dataclass(frozen=True)
class Piece:
    """Something that can go.

    Attributes:
        name: The object, or the upload.
        why: What makes it garbage.
        size_bytes: Of the object; 0 for an upload, whose parts are not listed.
        remove: Removes it.
    """

    name: str
    why: str
    size_bytes: int
    remove: Callable[[], object]


def find_garbage(root: Storage, used_by: Sequence[Storage] = (), *, now: datetime | None = None) -> list[Piece]:
    """Everything below an output, or a cache, that no run needs. Nothing is removed.

    Args:
        root: An output or a cache.
        used_by: Outputs, besides `root` itself, whose runs may use the tokens in it.
        now: For tests.

    Raises:
        ConfigurationError: no run record in any of them: then nothing says what is needed.
    """
    runs = [run for storage in (root, *used_by) for run in RunRecords(storage).all()]
    if not runs:
        raise ConfigurationError("has no runs/: name the outputs that use this cache with --used-by", root.url)
    named = {run["tokens_fingerprint"] for run in runs}
    tokens = [
        Piece(name, "tokens of a fingerprint that no run names", size, partial(root.remove, name))
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
    """Multipart uploads on S3 that nobody completed: invisible, and paid for."""
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
