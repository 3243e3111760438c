"""Secrets of every kind that may get into a text; they open nothing."""

from __future__ import annotations

import base64

_WORD = "9zQh7LkTr2WxVb4N"
_BASIC = base64.b64encode(f"user:{_WORD}".encode()).decode()
_JWT = ".".join(
    base64.urlsafe_b64encode(part.encode()).decode().rstrip("=")
    for part in ('{"alg":"HS256"}', f'{{"a":"{_WORD}"}}', _WORD)
)
PRIVATE_KEY = f"-----BEGIN RSA PRIVATE KEY-----\nMIIEow{_WORD}\n{_WORD}==\n-----END RSA PRIVATE KEY-----"

# The text that is planted, and the part of it that must never be seen again.
SECRETS = {
    "password in a URL": (f"https://user:{_WORD}@host/v.mp4", _WORD),
    "password with a slash": (f"https://user:a/{_WORD}@host/v.mp4", _WORD),
    "signed URL": (f"https://account.blob.core.windows.net/c/v.mp4?sv=2024&sig={_WORD}%2F", _WORD),
    "chained URL": (f"zip://v.mp4::https://user:{_WORD}@host/a.zip?X-Amz-Signature={_WORD}", _WORD),
    "basic": (f"Authorization: Basic {_BASIC}", _BASIC),
    "basic in a dictionary": (f"{{'authorization': 'Basic {_BASIC}'}}", _BASIC),
    "bearer": (f"authorization: Bearer {_WORD}", _WORD),
    "cookie": (f"Cookie: session={_WORD}", _WORD),
    "api_key": (f"api_key={_WORD}", _WORD),
    "x-api-key": (f"x-api-key: {_WORD}", _WORD),
    "AccountKey": (f"AccountName=a;AccountKey={_WORD}==;EndpointSuffix=core.windows.net", _WORD),
    "SharedAccessSignature": (f"SharedAccessSignature={_WORD}", _WORD),
    "password with spaces": (f'"password": "my {_WORD}"', _WORD),
    "environment": (f"AWS_SECRET_ACCESS_KEY={_WORD}", _WORD),
    "another variable": (f"MY_SERVICE_KEY={_WORD}", _WORD),
    "GitHub": (f"ghp_{_WORD}AbCdEfGhIjKlMnOpQrSt", _WORD),
    "GitHub, fine-grained": (f"github_pat_11ABCDEFG0{_WORD}_{_WORD}", _WORD),
    "Hugging Face": (f"hf_{_WORD}AbCdEfGhIjKlMnOpQr", _WORD),
    "JSON web token": (_JWT, _JWT.rpartition(".")[2]),
    "AWS key": ("AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    "private key": (PRIVATE_KEY, _WORD),
}
