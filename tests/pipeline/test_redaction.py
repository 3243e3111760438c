"""What is taken out of texts that are written or printed, in linear time, and what stays."""

from __future__ import annotations

import base64
import json
import time

import pytest

from pipeline.redaction import holds_secret, redacted
from tests.support.secrets import PRIVATE_KEY, SECRETS


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "around",
    ["{}", "got {} from the server", "[{}]", "x='{}',", "OSError: ({})\n  File 'a.py'", "a b.mp4 {}; 17 packets"],
)
def test_a_secret_is_taken_out_wherever_it_stands(name: str, around: str) -> None:
    """Of each kind nothing stays, and what is around it does; doing it twice changes nothing."""
    text, secret = SECRETS[name]
    clean = redacted(around.format(text))
    assert secret not in clean
    assert "***" in clean
    assert redacted(clean) == clean
    assert clean.startswith(around.split("{", 1)[0])


@pytest.mark.parametrize("name", SECRETS)
def test_also_inside_of_json(name: str) -> None:
    """Once or twice quoted, as services repeat a request in their errors."""
    text, secret = SECRETS[name]
    once = json.dumps({"message": text})
    assert json.dumps(secret)[1:-1] not in redacted(once)
    assert json.dumps(secret)[1:-1] not in redacted(json.dumps({"body": once}))


def test_a_key_that_is_cut_off() -> None:
    """Its end is missing, its content is not."""
    assert redacted(f"key: {PRIVATE_KEY[:60]}") == "key: ***"


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/videos/a b.mp4 is no video: 17 packets",
        "what is shown? 12 tokens of 40, max_batch_tokens=40, token_ids: [1, 2]",
        "https://host/a.mp4, b@c",
        "http://[::1]:8265/jobs/1 and https://host:8080/a@2x.png",
        "the tokenizer: 3 files; a basic understanding; Basic equipment",
        "zip://a.mp4::s3://bucket/b.zip",
        "generation.chat_template: key of a message",
        "storage_options: 'key' looks like a secret: give it through the environment or a profile",
        "the URL contains a password: give it through the environment or a profile",
    ],
)
def test_other_texts_stay_as_they_are(text: str) -> None:
    """Paths, sentences and our own messages."""
    assert redacted(text) == text


def test_basic_credentials_without_their_header() -> None:
    """Base64 of a name and a password; of anything else it is a word."""
    coded = base64.b64encode(b"user:hunter2").decode()
    assert redacted(f"sent Basic {coded}") == "sent Basic ***"
    assert redacted("Basic dGVzdA==") == "Basic dGVzdA=="


@pytest.mark.parametrize(
    "piece", ["a", "://x:y/", "a.a-", "token", "token='", "x://y?", "eyJaaaaa.", "Basic ", "::", "a://", "password  "]
)
def test_the_time_grows_with_the_length(piece: str) -> None:
    """A message may come from a file, so none may take seconds: twice quadratic would be minutes here."""
    text = (piece * 200_000)[:200_000] + "@"
    begun = time.process_time()
    redacted(text)
    holds_secret(text)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/token=3/videos.csv", False),
        ("/data/password=3/out", False),
        ("https://host/videos.csv?version=3", False),
        ("https://host/videos.csv?sv=1&sig=abc", True),
        ("https://user:pass@host/videos.csv", True),
        ("Bearer abcdef", True),
        ("AccountName=a;AccountKey=abc==", True),
        ("eu-central-1", False),
    ],
)
def test_what_a_setting_may_hold(text: str, expected: bool) -> None:
    """Folders may have any name."""
    assert holds_secret(text) is expected
