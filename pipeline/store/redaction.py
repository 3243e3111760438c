"""Texts without secrets: what libraries say in errors, and what the job's own tables hold, may have some."""

from __future__ import annotations

import re

_HIDDEN = "***"
# What signs a URL is in its query; a name and a password stand before the host.
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"<>]*)\?[^\s'\"<>]*", re.IGNORECASE)
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"<>]+@", re.IGNORECASE)
# Ids of AWS's access keys; the tokens of Hugging Face; what follows a header's `Bearer`; `secret=...` and the like.
_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{20,}\b")
_BEARER = re.compile(r"\b(Bearer\s+)[^\s'\",]+", re.IGNORECASE)
_NAMED = re.compile(
    r"([\w-]*(?:secret|password|passwd|token(?!s)|signature|credential|access_key)[\w-]*['\"]?\s*[=:]\s*['\"]?)[^\s'\",&}]+",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """A text without what must not be in a log or a table: queries and passwords of URLs, keys, tokens."""
    text = _USER.sub(rf"\1{_HIDDEN}@", _QUERY.sub(rf"\1?{_HIDDEN}", text))
    text = _KEY.sub(_HIDDEN, _BEARER.sub(rf"\1{_HIDDEN}", text))
    return _NAMED.sub(rf"\1{_HIDDEN}", text)
