"""Which files a job may touch: `allowed_roots`, so that a table of videos can't have other files read.

A videos table may come from anybody who may write to a bucket; the process that reads it may see more than they do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_LOCAL = ("file://", "local://")


def refusal(path: str, allowed_roots: Sequence[str] | None) -> str | None:
    """Why a path or URL may not be read, or None if it may.

    Local paths are compared as they are after every symbolic link is followed. A URL has to begin with a root, which
    ends at a slash: ``s3://bucket`` allows ``s3://bucket/a.mp4`` and not ``s3://bucket2/a.mp4``; ``s3://`` allows all.

    Args:
        path: What is to be opened.
        allowed_roots: Local folders and URL prefixes; None allows everything.
    """
    if allowed_roots is None or any(_is_below(path, root) for root in allowed_roots):
        return None
    return f"{path} is outside of allowed_roots ({', '.join(allowed_roots) or 'nothing is allowed'})"


def _is_below(path: str, root: str) -> bool:
    local_path, local_root = _local(path), _local(root)
    if local_path is None or local_root is None:
        # A chain of URLs (zip::file:///etc/...) begins with no root; "..", or a "%" that hides it, may lead out of one.
        unclear = ".." in path.split("/") or "%" in path or "::" in path
        prefix = root if root.endswith("/") else f"{root}/"
        return local_path is None and local_root is None and not unclear and f"{path}/".startswith(prefix)
    return local_path.is_relative_to(local_root)


def _local(path: str) -> Path | None:
    """The local file that a path means; None for a URL."""
    for scheme in _LOCAL:
        if path.startswith(scheme):
            return Path(path.removeprefix(scheme)).resolve()
    return None if "://" in path or "::" in path else Path(path).resolve()
