"""Check the files of a job against `allowed_roots`, so that a videos table can't make the job read other files.

The author of a videos table may have fewer permissions than the process that reads it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.store.filesystem import REDIRECT_REFUSAL

_LOCAL = ("file://", "local://")


def refusal(path: str, allowed_roots: Sequence[str] | None) -> str | None:
    """Return why a path or URL may not be opened, or None if it may.

    Local paths are compared after all symbolic links are resolved. A URL must start with a root, up to a slash:
    ``s3://bucket`` allows ``s3://bucket/a.mp4`` but not ``s3://bucket2/a.mp4``; ``s3://`` allows every bucket.

    Args:
        path: Path or URL to open.
        allowed_roots: Local folders and URL prefixes; None allows everything.
    """
    if allowed_roots is None or any(_is_below(path, root) for root in allowed_roots):
        return None
    return f"{path} is outside of allowed_roots ({', '.join(allowed_roots) or 'nothing is allowed'})"


def source_options(storage_options: Mapping[str, Any], allowed_roots: Sequence[str] | None) -> dict[str, Any]:
    """Return the options with which a job's videos and tables are opened: redirects stay below its `allowed_roots`."""
    if allowed_roots is None:
        return dict(storage_options)
    return {**storage_options, REDIRECT_REFUSAL: _RefusedOutside(tuple(allowed_roots))}


@dataclass(frozen=True)
class _RefusedOutside:
    """`refusal` for some roots; equal for equal roots."""

    allowed_roots: tuple[str, ...]

    def __call__(self, url: str) -> str | None:
        return refusal(url, self.allowed_roots)


def _is_below(path: str, root: str) -> bool:
    local_path, local_root = _local(path), _local(root)
    if local_path is None or local_root is None:
        # Reject a chain of URLs (zip::file:///etc/...), and "..", also if hidden by a "%": both may leave the root.
        unclear = ".." in path.split("/") or "%" in path or "::" in path
        prefix = root if root.endswith("/") else f"{root}/"
        return local_path is None and local_root is None and not unclear and f"{path}/".startswith(prefix)
    return local_path.is_relative_to(local_root)


def _local(path: str) -> Path | None:
    """Return the resolved local file of a path; None for a URL."""
    for scheme in _LOCAL:
        if path.startswith(scheme):
            return Path(path.removeprefix(scheme)).resolve()
    return None if "://" in path or "::" in path else Path(path).resolve()
