"""Open the fsspec filesystem of a URL and classify its errors. fsspec is imported when the first URL is opened."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from flashvid.errors import ConfigurationError, FatalError
from pipeline.errors import StorageUnavailableError

# Errors about the object itself: repeating the request gives the same reply.
FINAL_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, NotImplementedError)
# Status of HTTP: not found, gone.
_GONE = (404, 410)
# Option of `resolve`: a function of a URL that returns why a redirect must not lead there, or None if it may.
REDIRECT_REFUSAL = "redirect_refusal"


class RedirectRefusedError(PermissionError):
    """A request was redirected to a URL that `REDIRECT_REFUSAL` refuses."""


def resolve(url: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URL and the path inside it (absolute for local files).

    `storage_options` may hold `REDIRECT_REFUSAL`, which is not passed to fsspec: a request over HTTP that is redirected
    to a refused URL raises a RedirectRefusedError.

    Listings are never cached, because they decide what work is left. Filesystem objects are cached by fsspec, because
    each holds open connections.

    Raises:
        ConfigurationError: the protocol is unknown, its package is missing, or it does not accept the options.
    """
    if "://" not in url:
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(), str(Path(url).absolute())
    import fsspec

    options = dict(storage_options or {})
    if (refusal := options.pop(REDIRECT_REFUSAL, None)) is not None and url.startswith(("http://", "https://")):
        options["client_kwargs"] = {**options.get("client_kwargs", {}), "trace_configs": _watched_redirects(refusal)}
    try:
        fs, path = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
    except (ValueError, ImportError, TypeError) as error:
        raise ConfigurationError(f"can't be opened: {error}", url) from None
    return fs, path


@lru_cache
def _watched_redirects(refusal: Callable[[str], str | None]) -> tuple[Any, ...]:
    """Return aiohttp's configuration for `REDIRECT_REFUSAL`: one object, so that fsspec's cache works."""
    import aiohttp
    from yarl import URL

    async def check(_session: object, _context: object, seen: aiohttp.TraceRequestRedirectParams) -> None:
        target = str(seen.url.join(URL(seen.response.headers.get("Location", ""))))
        if (reason := refusal(target)) is not None:
            raise RedirectRefusedError(f"{seen.url} is redirected: {reason}")

    config = aiohttp.TraceConfig()
    config.on_request_redirect.append(check)
    return (config,)


def real_error(error: Exception) -> Exception:
    """Return what is behind an error of a filesystem: fsspec reports every failed HTTP request as a missing file.

    Only status 404 or 410 means that there is no such file; a server that is down or refuses says nothing about it.
    """
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or cause is None or getattr(cause, "status", None) in _GONE:
        return error
    of_http = type(cause).__module__.startswith("aiohttp") or isinstance(cause, (OSError, TimeoutError))
    return cause if of_http and isinstance(cause, Exception) and not isinstance(cause, FileNotFoundError) else error


def described(error: Exception) -> str:
    """Return the text of a store's error, with what to do about credentials."""
    text = str(error) or type(error).__name__
    if type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError"):
        return (
            f"{text}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in the environment, give the "
            "machine a role, or, for a public bucket, set storage_options: {anon: true}"
        )
    if isinstance(error, PermissionError) and not isinstance(error, RedirectRefusedError):
        return f"access denied ({text}): check the credentials that are used, and their rights"
    return text


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
    except Exception as error:
        real = real_error(error)
        if isinstance(real, (FatalError, IsADirectoryError, *FINAL_ERRORS)) or "://" not in url:
            raise
        raise StorageUnavailableError(f"no answer ({described(real)})", url) from error
