"""Find and remove garbage: tokens of fingerprints that no run record names, and abandoned uploads."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from flashvid.errors import ConfigurationError
from pipeline.store.lease import Lease
from pipeline.store.quarantine import FOLDER as QUARANTINE
from pipeline.store.run_records import RunRecords
from pipeline.store.storage import Storage

# No writer of this project takes this long for one object. Tokens as young as this may be of a run whose records are
# not found, for example one of a version that left no word in the cache.
_ABANDONED = timedelta(hours=1)
_ABANDONED_UPLOAD = "an abandoned upload, more than an hour old"
_UNUSED_TOKENS = "tokens of a fingerprint that no run record names"
# Objects that are removed before the users are read again.
_AT_ONCE = 100


@dataclass(frozen=True)
class Piece:
    """An object or an upload that can be removed.

    Attributes:
        name: Name of the object or the upload.
        why: Why it is garbage.
        size_bytes: Size of the object; 0 for a multipart upload, whose parts are not listed.
        remove: Removes it.
        fingerprint: Of tokens, their fingerprint; else None.
    """

    name: str
    why: str
    size_bytes: int
    remove: Callable[[], object]
    fingerprint: str | None = None


@dataclass(frozen=True)
class Garbage:
    """What no run needs, and the number of unused tokens that are spared because they are less than an hour old."""

    pieces: tuple[Piece, ...]
    spared: int


def find_garbage(root: Storage, used_by: Sequence[Storage] = (), *, now: datetime | None = None) -> Garbage:
    """Return everything below an output or a cache that no run needs. Nothing is removed.

    Args:
        root: An output or a cache.
        used_by: Outputs other than `root` whose runs may use the tokens in it.
        now: Current time by the store's clock; default: the clock of this machine.

    Raises:
        ConfigurationError: nothing tells which tokens are in use: `root` and `used_by` have no run records, or damaged
            ones in quarantine.
        DamagedObjectError: a run record can't be read.
        NewerFormatError: see `RunRecords.all`.
    """
    # List first: what is taken into use later is not in the listing, or is named when the records are read.
    listed, temporary = root.dated("tokens"), root.temporary_objects()
    before = (now or datetime.now(UTC)) - _ABANDONED
    named = named_fingerprints(root, used_by)
    unused = [
        (written, Piece(name, _UNUSED_TOKENS, size, partial(root.remove, name), _fingerprint(name)))
        for name, (size, written) in listed.items()
        if _fingerprint(name) not in named
    ]
    uploads = [
        Piece(name, _ABANDONED_UPLOAD, size, partial(root.remove, name))
        for name, (size, written) in temporary.items()
        if written < before
    ]
    old = [piece for written, piece in unused if written < before]
    return Garbage((*old, *uploads, *_unfinished_uploads(root, before)), spared=len(unused) - len(old))


def named_fingerprints(root: Storage, used_by: Sequence[Storage]) -> Collection[str]:
    """Return the `tokens_fingerprint` of every recorded run; arguments and errors as in `find_garbage`."""
    runs = [run for storage in (root, *used_by) for run in RunRecords(storage).all()]
    if not runs:
        raise ConfigurationError("has no run records: name the outputs that use this cache with --used-by", root.url)
    for storage in (root, *used_by):
        for folder in ("runs", "used-by"):
            if storage.names(f"{QUARANTINE}/{folder}"):
                raise ConfigurationError(
                    f"has damaged records in {QUARANTINE}/{folder}, so which tokens are in use is not known: start a "
                    "run of each job that uses them, then delete that folder",
                    storage.url,
                )
    return {run["tokens_fingerprint"] for run in runs}


def remove_garbage(
    root: Storage, garbage: Garbage, users: Callable[[], Sequence[Storage]], leases: Sequence[Lease]
) -> Garbage:
    """Remove garbage, except tokens that a run has taken into use since it was found.

    Before every hundred objects, the users of the cache and their run records are read again.

    Args:
        root: The output or the cache.
        garbage: From `find_garbage`.
        users: Reads which outputs use the cache, as `cache_users`.
        leases: Leases of these outputs, which are kept alive.

    Returns:
        What was removed.

    Raises:
        OutputLockedError: a run took one of the leases; nothing more is removed.
    """
    removed: list[Piece] = []
    for begin in range(0, len(garbage.pieces), _AT_ONCE):
        named = named_fingerprints(root, users())
        for piece in garbage.pieces[begin : begin + _AT_ONCE]:
            for lease in leases:
                lease.keep_alive()
            if piece.fingerprint not in named:
                piece.remove()
                removed.append(piece)
    return Garbage(tuple(removed), garbage.spared)


def _fingerprint(name: str) -> str:
    return name.split("/")[1].removeprefix("fingerprint=")


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
