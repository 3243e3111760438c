"""Identities: what makes two clips, questions or settings the same. Pure functions of their arguments.

Every identity is a SHA-256 over canonical JSON, so that the boundary between two parts is never ambiguous.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence


def digest(*parts: object, length: int = 32) -> str:
    """Hexadecimal hash of JSON-serialisable parts.

    Args:
        parts: Strings, numbers, None, and lists or dictionaries of them.
        length: Hexadecimal digits kept.
    """
    canonical = json.dumps(parts, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:length]


def content_key(source_id: str, start_s: float | None, end_s: float | None) -> str:
    """Cache key of a clip's tokens: what the bytes are and which span is meant, never the bare `video_id`."""
    return digest("content", source_id, start_s, end_s)


def clip_id(video_id: str, key: str) -> str:
    """The clip of one video: a changed source gives another `content_key`, and so another clip."""
    return digest("clip", video_id, key)


def question_hash(question: str, options: Sequence[str] | None) -> str:
    """Identity of what is asked: the text as the model sees it and the options."""
    return digest("question", question, list(options) if options else None)


def shard_of(key: str) -> str:
    """Two hexadecimal digits that spread rows over 256 folders."""
    return digest("shard", key, length=2)
