"""Call the filesystem of a URL: repeat requests that got no answer, and convert errors."""

import errno
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flashvid.errors import ConfigurationError, FlashVidError
from pipeline.errors import DISK_NUMBERS, FULL_NUMBERS, DiskError, StorageUnavailableError
from pipeline.store.filesystem import FINAL_ERRORS, described, is_local, real_error, resolve
from pipeline.store.parquet import DamagedParquetError
from pipeline.store.traffic import Traffic

_READ_SECONDS = 60.0
# Limit if no credentials are found. Those of a cloud machine may take a moment to arrive, but usually none exist.
_CREDENTIALS_SECONDS = 5.0
_FIRST_PAUSE_S = 0.2
FINAL_NUMBERS = (errno.EINVAL, errno.ENOSYS)


class StoreCalls:
    """A root folder on a local disk or an object store.

    Args:
        url: Path or URL of the root folder.
        storage_options: Options for fsspec.

    Raises:
        ConfigurationError: the URL can't be opened, or names a local file.
    """

    def __init__(self, url: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self.fs, self.root = resolve(url, storage_options)
        self.is_local = is_local(self.fs)
        # Other filesystems may have a single connection, on which requests of several threads would mix.
        self.is_concurrent = self.is_local or self.fs.async_impl
        self._traffic = Traffic()
        if self.is_local and Path(self.root).is_file():
            raise ConfigurationError("is a file, not a folder", url)

    def path(self, name: str) -> str:
        """Return the path of an object inside the filesystem."""
        return f"{self.root.rstrip('/')}/{name}"

    def _call(
        self,
        method: Callable[..., Any],
        *arguments: object,
        within_s: float = _READ_SECONDS,
        has_timeout: bool = True,
        **options: object,
    ) -> Any:  # noqa: ANN401 - the type depends on `method`
        """Call a method of the filesystem; on a remote store, repeat it until it answers or the time is over.

        Raises:
            DiskError: a local disk is full, read-only or failing.
            StorageUnavailableError: no answer within `within_s` seconds.
        """
        if self.is_local:
            try:
                return method(*arguments, **options)
            except OSError as error:
                if error.errno in DISK_NUMBERS:
                    raise DiskError.of(error, self.url) from error
                raise
        begun, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            if has_timeout and self.fs.async_impl:
                options["timeout"] = max(begun + within_s - time.monotonic(), 1e-3)
            try:
                return method(*arguments, **options)
            except Exception as caught:
                real = real_error(caught)
                if isinstance(real, PermissionError):
                    raise PermissionError(f"{self.url}: {described(real)}") from caught
                final = isinstance(real, (FlashVidError, DamagedParquetError, *FINAL_ERRORS))
                if final or getattr(real, "errno", None) in FINAL_NUMBERS:
                    raise
                if isinstance(real, OSError) and real.errno in FULL_NUMBERS:  # of the file that is fetched to
                    raise DiskError.of(real) from real
                from botocore.exceptions import NoCredentialsError

                reason = described(real)
                if isinstance(real, NoCredentialsError):
                    within_s = min(within_s, _CREDENTIALS_SECONDS)
                else:
                    reason = f"no answer within {within_s:.0f} s ({reason})"
                if time.monotonic() + pause >= begun + within_s:
                    raise StorageUnavailableError(reason, self.url) from caught
            self._traffic.add("requests_repeated")
            time.sleep(pause)
            pause *= 2
