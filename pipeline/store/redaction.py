"""Remove secrets from texts: error messages of libraries and values of the input tables may contain some."""

import re

_HIDDEN = "***"
# The signature of a URL is in its query; user name and password are before the host.
_QUERY = re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s?#'\"<>]*)\?[^\s'\"<>]*", re.IGNORECASE)
_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"<>]+@", re.IGNORECASE)
# Ids of AWS access keys, Hugging Face tokens, the value after `Bearer` in a header, and pairs such as `secret=...`.
_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bhf_[A-Za-z0-9]{20,}\b")
_BEARER = re.compile(r"\b(Bearer\s+)[^\s'\",]+", re.IGNORECASE)
_NAMED = re.compile(
    r"([\w-]*(?:secret|password|passwd|token(?!s)|signature|credential|access_key)[\w-]*['\"]?\s*[=:]\s*['\"]?)[^\s'\",&}]+",
    re.IGNORECASE,
)


def redacted(text: str) -> str:
    """Return a text that is safe for logs and tables: queries and passwords of URLs, keys and tokens become ``***``."""
    text = _USER.sub(rf"\1{_HIDDEN}@", _QUERY.sub(rf"\1?{_HIDDEN}", text))
    text = _KEY.sub(_HIDDEN, _BEARER.sub(rf"\1{_HIDDEN}", text))
    return _NAMED.sub(rf"\1{_HIDDEN}", text)
