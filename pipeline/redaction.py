"""Remove secrets from texts: error messages of libraries and values of the input tables may contain some.

Every writer calls `redacted`: tables, run records, logs, the report, and what commands print. A text is searched in
time that grows with its length, because some of these texts come from untrusted files.
"""

import base64
import binascii
import re
from collections.abc import Mapping

_HIDDEN = "***"
# Keys and tokens that are known by their form, whatever is written around them.
_KNOWN = re.compile(
    r"\b(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS access keys
    r"|(?:hf|api_org)_[A-Za-z0-9]{20,}"  # Hugging Face
    r"|gh[a-z]_[A-Za-z0-9]{20,}|github_pat_\w{20,}"  # GitHub
    r"|glpat-[\w-]{20,}"  # GitLab
    r"|xox[a-z]-[\w-]{10,}"  # Slack
    r"|AIza[\w-]{30,}|ya29\.[\w-]{10,}"  # Google
    r"|sk-[\w-]{20,}"  # OpenAI and others
    r"|AGE-SECRET-KEY-1[A-Z0-9]{20,}"
    r"|eyJ[\w-]{5,}\.[\w-]{5,}(?:\.[\w-]*){1,3}"  # JSON web tokens
    r")"
)
# A key without an end is cut off somewhere: all the rest is hidden.
_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]{0,40}-----|\Z)", re.DOTALL
)
_URL = re.compile(r"\b[a-z][a-z0-9+.-]{0,30}://[^\s'\"<>]*", re.IGNORECASE)
_USER = re.compile(r"://[^/?#]*@")
# A password may hold characters that end the host, as in "user:pass/word@host"; a port is a number.
_ODD_USER = re.compile(r"://[^/?#:@\[\]]*:(?!:|\d*(?:[/?#]|$)).{0,1000}@")
# Headers whose whole value is secret, and the schemes of `Authorization` where the name of the header is missing.
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie)(\\?['\"]?\s{0,4}[=:]\s{0,4}\\?['\"]?)[^\r\n'\"]+", re.IGNORECASE
)
_BEARER = re.compile(r"\b(Bearer\s{1,4})[^\s'\",]+", re.IGNORECASE)
_BASIC = re.compile(r"\b(Basic\s{1,4})([A-Za-z0-9+/_-]{4,}={0,2})", re.IGNORECASE)
# Names of secrets, as in `client_secret=...`, `"api-key": "..."`, `AccountKey=...` and `MY_SERVICE_KEY=...`.
# The two sentences are our own, in pipeline/config.py.
_NAME = (
    r"(?<!looks like a )(?<!contains a )"
    r"(?:(?i:secret|passw(?:or)?d|passphrase|\bpwd|token(?!s|i[zs]|_ids?\b|_type|_selection)|signature|credential"
    r"|connection[_-]?string|(?:api|access|account|private|shared|storage|signing|encryption|master)"
    r"[_ -]?(?:access[_-]?)?key"
    r"|\b(?:sas|sig|auth)\b)[\w-]{0,64}|[A-Z0-9]_(?:KEY|PASS|PWD|AUTH|SAS)\b)"
)
_QUOTE = r"\\{0,8}['\"]"
_ASSIGNED = rf"(?:{_QUOTE})?\s{{0,4}}(?:[=:]|%3D|%3A)\s{{0,4}}"
_NAMED = re.compile(
    rf"({_NAME}{_ASSIGNED})(?:({_QUOTE})(?!\*{{3}})((?:(?!\2)[^\r\n])*)(?:\2|(?=[\r\n])|\Z)|(?!['\"\\])[^\s'\"&]+)"
)


def redacted(text: str) -> str:
    """Return a text that is safe for logs and tables: ``***`` replaces the secrets in it.

    Hidden are user names, passwords and queries of URLs, values whose names say that they are secret, authorization
    headers and cookies, private keys, and tokens of well-known services.
    """
    text = _HEADER.sub(rf"\1\2{_HIDDEN}", _PRIVATE_KEY.sub(_HIDDEN, text))
    # Names before URLs: a secret may follow a name at the end of a query.
    text = _URL.sub(_without_secrets, _NAMED.sub(_without_value, text))
    return _BASIC.sub(_without_password, _BEARER.sub(rf"\1{_HIDDEN}", _KNOWN.sub(_HIDDEN, text)))


def is_redacted(url: str) -> bool:
    """Return whether `redacted` has hidden a part of a URL."""
    return "://" in url and _HIDDEN in url


def redacted_values(value: object) -> object:
    """Return JSON-like data with every text value in it `redacted`; keys and other values are kept."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {name: redacted_values(inner) for name, inner in value.items()}
    return [redacted_values(inner) for inner in value] if isinstance(value, list | tuple) else value


def holds_secret(text: str) -> bool:
    """Return whether a text, such as a URL or an option of a store, holds a password, a token or a key.

    Other than in `redacted`, the name of a folder such as ``token=3`` is not a secret, nor is a query without names of
    secrets.
    """
    if _KNOWN.search(text) or _PRIVATE_KEY.search(text) or _HEADER.search(text) or _BEARER.search(text):
        return True
    for found in _URL.finditer(text):
        place, _, query = found.group().partition("?")
        users = (*_USER.findall(place), *_ODD_USER.findall(found.group()))
        if any(":" in user.removeprefix("://") for user in users) or _NAMED.search(query):
            return True
    return "://" not in text and "/" not in text and _NAMED.search(text) is not None


def _without_secrets(found: re.Match[str]) -> str:
    """Return a URL without queries, user names and passwords; a chained one (``zip://a::s3://b``) may have several."""
    url = _USER.sub(f"://{_HIDDEN}@", _ODD_USER.sub(f"://{_HIDDEN}@", found.group()))
    parts = [part.partition("?") for part in url.split("::")]
    return "::".join(f"{place}?{_HIDDEN}" if mark else place for place, mark, _ in parts)


def _without_password(found: re.Match[str]) -> str:
    """Hide what follows the word Basic if it is a user name and a password in Base64."""
    coded = found[2].rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        holds_both = b":" in base64.b64decode(coded + "=" * (-len(coded) % 4))
    except (binascii.Error, ValueError):
        holds_both = False
    return f"{found[1]}{_HIDDEN}" if holds_both else found[0]


def _without_value(found: re.Match[str]) -> str:
    quote = found[2] or ""
    return f"{found[1]}{quote}{_HIDDEN}{quote}"
