"""Open the fsspec filesystem of a URL and classify its errors. fsspec is imported when the first URL is opened."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashvid.errors import ConfigurationError, FatalError
from pipeline.errors import StorageUnavailableError

# Errors about the object itself: repeating the request gives the same reply.
FINAL_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, NotImplementedError)


def resolve(url: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URL and the path inside it (absolute for local files).

    Listings are never cached, because they decide what work is left. Filesystem objects are cached by fsspec, because
    each holds open connections.

    Raises:
        ConfigurationError: the protocol is unknown, its package is missing, or it does not accept the options.
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
    """Return whether a filesystem is the local one."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(fs, LocalFileSystem)


@contextmanager
def answering(url: str) -> Iterator[None]:
    """Convert errors of a remote store that does not answer into one that names the URL.

    `FINAL_ERRORS`, which are about a path, `FatalError` and every error of a local path pass unchanged.

    Raises:
        StorageUnavailableError: the remote store did not answer.
    """
    try:
        yield
    except (FatalError, IsADirectoryError, *FINAL_ERRORS):
        raise
    except Exception as error:
        if "://" not in url:
            raise
        raise StorageUnavailableError(f"no answer ({str(error) or type(error).__name__})", url) from error
