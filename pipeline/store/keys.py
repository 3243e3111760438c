"""Compute the identities of clips, questions and settings. All functions are pure.

Every identity is a SHA-256 of canonical JSON, so that the boundary between two parts is never ambiguous.
"""

import hashlib
import json
from collections.abc import Sequence


def digest(*parts: object, length: int = 32) -> str:
    """Return a hexadecimal hash of JSON-serialisable parts.

    Args:
        parts: Strings, numbers, None, and lists or dictionaries of them.
        length: Number of hexadecimal digits to keep.
    """
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def content_key(source_id: str, start_s: float | None, end_s: float | None) -> str:
    """Return the cache key of a clip's tokens, from the identity of the file's bytes and the span in seconds.

    The `video_id` is not part of it: two rows with the same bytes and span share their tokens.
    """
    return digest("content", source_id, start_s, end_s)


def clip_id(video_id: str, key: str) -> str:
    """Return the id of a video's clip. A changed source has another `content_key`, so it is another clip."""
    return digest("clip", video_id, key)


def question_hash(question: str, options: Sequence[str] | None) -> str:
    """Return the identity of a question: the rendered text that the model sees, and the options."""
    return digest("question", question, list(options) if options else None)


def path_hash(video_path: str) -> str:
    """Return the hash that `probes/` holds of a path with secrets, in place of the path itself."""
    return digest("path", video_path)


def shard_of(key: str) -> str:
    """Return the shard of a key: two hexadecimal digits that spread rows over 256 folders."""
    return digest("shard", key, length=2)
