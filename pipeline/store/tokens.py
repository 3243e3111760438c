"""Read and write the dataset of compressed tokens: one immutable Parquet object per clip, reusable by any run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.clip import ClipIdentity
from pipeline.config import CacheDtype
from pipeline.errors import CorruptTokensError
from pipeline.store import schemas
from pipeline.store.parquet import DamagedParquetError, read_columns
from pipeline.store.quarantine import quarantine
from pipeline.store.storage import Storage

if TYPE_CHECKING:
    from flashvid.models import CompressedVideo

# Longer than `WRITE_SECONDS`: tokens may be large, and they are not written under the lease.
_WRITE_SECONDS = 600.0


class TokenStore:
    """The committed compressed tokens under one `tokens_fingerprint`.

    Args:
        storage: The output or cache that holds the tokens.
        fingerprint: The `tokens_fingerprint`.
        cache_dtype: Stored type of new tokens; None stores them exactly. Each object records its own type for reading.
    """

    def __init__(self, storage: Storage, fingerprint: str, cache_dtype: CacheDtype | None = None) -> None:
        self._storage = storage
        self._cache_dtype = cache_dtype
        self._folder = f"tokens/fingerprint={fingerprint}"

    def name(self, content_key: str) -> str:
        """Return the name of a clip's object; its shard is the first two digits of the key."""
        return f"{self._folder}/shard={content_key[:2]}/{content_key}.parquet"

    def committed(self, shards: Iterable[str] | None = None) -> frozenset[str]:
        """Return the `content_key` of every clip whose tokens are committed.

        Args:
            shards: The shards to list: first two digits of the keys; None for all.
        """
        folders = [self._folder] if shards is None else [f"{self._folder}/shard={shard}" for shard in shards]
        names = (name for folder in folders for name in self._storage.names(folder))
        return frozenset(name.rsplit("/", 1)[1].removesuffix(".parquet") for name in names)

    def has(self, content_key: str) -> bool:
        """Return whether a clip's tokens are committed."""
        return self._storage.exists(self.name(content_key))

    def take_traffic(self) -> dict[str, int]:
        """Return the traffic of the storage since the last call, as `Storage.take_traffic` does."""
        return self._storage.take_traffic()

    def commit(
        self, content_key: str, video: CompressedVideo, origin: ClipIdentity, *, thumbnails: list[bytes], run_id: str
    ) -> bool:
        """Commit a clip's tokens.

        Returns:
            False if another writer was first. Its object stays, and is equally valid.

        Raises:
            InvalidFeaturesError: `cache_dtype` can't represent the tokens.
            StorageUnavailableError: see `Storage.create`.
        """
        from pipeline.store.token_codec import encode_tokens

        content = encode_tokens(video, origin, cache_dtype=self._cache_dtype, thumbnails=thumbnails, run_id=run_id)
        return self._storage.create(self.name(content_key), content, within_s=_WRITE_SECONDS)

    def read(self, content_key: str) -> CompressedVideo:
        """Return the committed tokens of a clip.

        Raises:
            FileNotFoundError: nothing is committed for this clip.
            CorruptTokensError: the object can't be read, or contradicts itself.
        """
        from pipeline.store.token_codec import decode_tokens

        name = self.name(content_key)
        return decode_tokens(self._storage.read(name), name)

    def read_or_quarantine(self, content_key: str) -> CompressedVideo:
        """Return the committed tokens of a clip; move a damaged object to `quarantine/`, so that they are made again.

        No lease is needed: tokens that another process commits under the same name are equally valid.

        Raises:
            CorruptTokensError: the object was damaged, or is gone; the next run makes the tokens again.
        """
        from pipeline.store.token_codec import decode_tokens

        name = self.name(content_key)
        try:
            content = self._storage.read(name)
        except FileNotFoundError:
            raise CorruptTokensError(
                "was removed after this run was planned; the next run makes it again", name
            ) from None
        try:
            return decode_tokens(content, name)
        except CorruptTokensError as error:
            moved = quarantine(self._storage, name, content)
            place = f"it was moved to {moved}" if moved is not None else "another process has replaced it"
            raise CorruptTokensError(
                f"{error.message}; {place}, and the next run makes the tokens again", name
            ) from error


def read_token_columns(storage: Storage, name: str, columns: Sequence[str]) -> dict[str, Any] | None:
    """Read some columns of a clip's tokens object, without the tokens themselves, which are large.

    Args:
        storage: Root of the tokens.
        name: The object, as `TokenStore.name` returns it.
        columns: Names of columns of `schemas.TOKENS`.

    Returns:
        The values by name; None if the object is missing or damaged.
    """
    try:
        with storage.fs.open(storage.path(name), "rb") as file:
            rows: list[dict[str, Any]] = read_columns(file, schemas.TOKENS, columns).to_pylist()
    except (FileNotFoundError, DamagedParquetError):
        return None
    return rows[0] if len(rows) == 1 else None
