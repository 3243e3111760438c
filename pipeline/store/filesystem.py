"""The fsspec filesystem of a URL, and what its silence means. fsspec is imported when the first one is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashvid.errors import ConfigurationError, FatalError
from pipeline.errors import StorageUnavailableError

# What a store says about the object itself, and will say again.
FINAL_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, NotImplementedError)


def resolve(url: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URL and the path inside it (absolute for local files).

    Listings are never cached: they decide what work is left. Filesystems are: each holds open connections.

    Raises:
        ConfigurationError: an unknown protocol, one whose package is missing, or options that it does not take.
    """
    if "://" not in url:
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(), str(Path(url).absolute())
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False, **(storage_options or {}))
    except (ValueError, ImportError, TypeError) as error:
        raise ConfigurationError(f"can't be opened: {error}", url) from None
    return fs, path


def is_local(fs: Any) -> bool:  # noqa: ANN401 - an fsspec filesystem, which has no types
    """Whether a filesystem is this machine's own."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(fs, LocalFileSystem)


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Turn every filesystem's own error for "no answer" into one that names the URL; let what it says of a path pass.

    Raises:
        StorageUnavailableError: a remote store did not answer.
    """
    try:
        yield
    except (FatalError, IsADirectoryError, *FINAL_ERRORS):
        raise
    except Exception as error:
        if "://" not in url:
            raise
        raise StorageUnavailableError(f"no answer ({str(error) or type(error).__name__})", url) from error
