"""The dataset of compressed tokens: one immutable Parquet object per clip, shared by every run that can use it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.clip import ClipIdentity
from pipeline.config import CacheDtype
from pipeline.store.storage import Storage

if TYPE_CHECKING:
    from flashvid.models import CompressedVideo

# Nobody waits for one clip's tokens, which may be large, as others wait for a lease.
_WRITE_SECONDS = 600.0


class TokenStore:
    """Committed compressed tokens under one `tokens_fingerprint`.

    Args:
        storage: Where.
        fingerprint: The `tokens_fingerprint`.
        cache_dtype: How tokens are written; None is bit for bit. Reading goes by what an object says of itself.
    """

    def __init__(self, storage: Storage, fingerprint: str, cache_dtype: CacheDtype | None = None) -> None:
        self._storage = storage
        self._cache_dtype = cache_dtype
        self._folder = f"tokens/fingerprint={fingerprint}"

    def name(self, content_key: str) -> str:
        """The object of a clip; its shard is the key's own prefix."""
        return f"{self._folder}/shard={content_key[:2]}/{content_key}.parquet"

    def committed(self, shards: Iterable[str] | None = None) -> frozenset[str]:
        """`content_key` of every clip whose tokens are committed, in all or some shards (a key's first two digits)."""
        folders = [self._folder] if shards is None else [f"{self._folder}/shard={shard}" for shard in shards]
        names = (name for folder in folders for name in self._storage.names(folder))
        return frozenset(name.rsplit("/", 1)[1].removesuffix(".parquet") for name in names)

    def has(self, content_key: str) -> bool:
        """Whether a clip's tokens are committed."""
        return self._storage.exists(self.name(content_key))

    def take_traffic(self) -> dict[str, int]:
        """See `Storage.take_traffic`."""
        return self._storage.take_traffic()

    def commit(
        self,
        content_key: str,
        video: CompressedVideo,
        origin: ClipIdentity,
        *,
        thumbnails: list[bytes],
        run_id: str,
    ) -> bool:
        """Write a clip's tokens; False if another writer was first (its object stays, and is as good).

        Raises:
            InvalidFeaturesError: tokens that `cache_dtype` cannot hold.
        """
        from pipeline.store.token_codec import encode_tokens

        content = encode_tokens(video, origin, cache_dtype=self._cache_dtype, thumbnails=thumbnails, run_id=run_id)
        return self._storage.create(self.name(content_key), content, within_s=_WRITE_SECONDS)

    def read(self, content_key: str) -> CompressedVideo:
        """The committed tokens of a clip.

        Raises:
            FileNotFoundError: nothing is committed for this clip.
            CorruptTokensError: the object contradicts itself.
        """
        from pipeline.store.token_codec import decode_tokens

        name = self.name(content_key)
        return decode_tokens(self._storage.read(name), name)


def read_token_columns(storage: Storage, name: str, columns: Sequence[str]) -> dict[str, Any] | None:
    """Read some columns of a clip's tokens: the tokens themselves, which are large, stay where they are.

    Args:
        storage: Root of the tokens.
        name: The object, as `TokenStore.name` gives it.
        columns: Names of `schemas.TOKENS`.

    Returns:
        The values by name; None if there is no such object, or a damaged one.
    """
    import pyarrow as pa

    from pipeline.store import schemas
    from pipeline.store.parquet import read_columns

    try:
        with storage.fs.open(storage.path(name), "rb") as file:
            rows: list[dict[str, Any]] = read_columns(file, schemas.TOKENS, columns).to_pylist()
    except (FileNotFoundError, pa.ArrowInvalid):
        return None
    except OSError as error:
        if error.errno is not None:
            raise
        return None  # what Parquet raises for bytes that make no sense
    return rows[0] if len(rows) == 1 else None
