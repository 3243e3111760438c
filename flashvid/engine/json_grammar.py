"""JSON answers: restricts the next token to those that let an answer satisfy a schema."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import llguidance
import numpy as np

from flashvid.bounded_json import check_depth, parse_json
from flashvid.errors import ConfigurationError

if TYPE_CHECKING:
    import torch
    from llguidance import LLTokenizer
    from llguidance._lib import JsonCompileOptions  # a type only, in its type information

# One way to write a value, so that a model cannot spend its tokens on blanks. Keywords that cannot be enforced are
# errors, even if the schema sets its own options.
_WRITING: JsonCompileOptions = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
}

# Bounds of compiling a schema: characters, and CPU seconds and bytes of memory.
_MAX_LENGTH = 1 << 20
_COMPILE_SECONDS = 5
_COMPILE_BYTES = 4 << 30
# What the child process runs; it imports nothing of this package, so that it starts in milliseconds.
_COMPILE = """
import json, resource, sys
import llguidance
limits, schema = json.loads(sys.argv[1]), sys.stdin.buffer.read().decode()
resource.setrlimit(resource.RLIMIT_CPU, (limits["seconds"], limits["seconds"]))
resource.setrlimit(resource.RLIMIT_AS, (limits["bytes"], limits["bytes"]))
try:
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=limits["writing"])
    is_error, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar)
except ValueError as error:
    is_error, messages = True, [str(error)]
print(json.dumps([is_error, messages[0][:500] if is_error else ""]))
"""


class JsonGrammar:
    """A schema compiled for a tokenizer. Answers begin from it and do not change it."""

    def __init__(self, schema: str, tokenizer: LLTokenizer) -> None:
        """Compile a schema.

        Args:
            schema: JSON text, as returned by `schema_text`.
            tokenizer: The model's tokenizer, with the tokens that end an answer.

        Raises:
            ConfigurationError: The schema is invalid, has a keyword that cannot be enforced, or is too complex.
        """
        self._begun = llguidance.LLMatcher(tokenizer, _grammar(schema), log_level=0)
        _check(self._begun)

    def begin(self) -> JsonAnswer:
        """Return an answer without tokens."""
        return JsonAnswer(self._begun.deep_copy())


class JsonAnswer:
    """State of one answer, independent of other answers."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Return whether the JSON is complete, so that no token can follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """Return logits `[V]` with minus infinity for every token that is not allowed next.

        Raises:
            ConfigurationError: The schema has become too complex, or the tokenizer has no token to continue with.
        """
        import torch

        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        _check(self._matcher)
        # A model may have more logits than its tokenizer has tokens; the extra ones are never allowed.
        allowed = np.zeros(len(logits), dtype=bool)
        stored = np.unpackbits(bits, bitorder="little")[: len(logits)]
        allowed[: len(stored)] = stored
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)

    def append(self, token: int) -> None:
        """Append an allowed token.

        Raises:
            ConfigurationError: See `masked`.
        """
        self._matcher.consume_token(token)
        _check(self._matcher)


def schema_text(schema: object) -> str:
    """Return a JSON schema, a mapping or JSON text, as text; the order of its keys is that of the answers' properties.

    Raises:
        ValueError: The schema is not a JSON object, not a JSON schema, or has a keyword that cannot be enforced.
    """
    try:
        content = parse_json(schema) if isinstance(schema, str) else schema
        check_depth(content)
        # This finds values that JSON does not have, such as dates and sets.
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the JSON schema is not JSON: {error}") from None
    if not isinstance(content, Mapping):
        raise ValueError("a JSON schema must be an object")
    if (problem := _problem(text)) is not None:
        raise ValueError(f"the JSON schema can't be enforced: {problem}")
    return text


@lru_cache(maxsize=64)
def _problem(schema: str) -> str | None:
    """Return why a schema can't be enforced; None if it can.

    A few patterns can take the compiler hours, and a thread can't be stopped: a child process tries first.
    """
    if len(schema) > _MAX_LENGTH:
        return f"it has {len(schema)} characters, more than {_MAX_LENGTH}"
    limits = json.dumps({"seconds": _COMPILE_SECONDS, "bytes": _COMPILE_BYTES, "writing": _WRITING})
    try:
        done = subprocess.run(  # noqa: S603 - our own program, its input is data
            [sys.executable, "-P", "-c", _COMPILE, limits],
            input=schema.encode(),
            capture_output=True,
            timeout=10 * _COMPILE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        done = None
    if done is None or done.returncode:
        return f"compiling it takes more than {_COMPILE_SECONDS} s or {_COMPILE_BYTES >> 30} GiB: simplify its patterns"
    is_error, message = json.loads(done.stdout)
    return _one_line(message) if is_error else None


def _grammar(schema: str) -> str:
    return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=_WRITING)


def _check(matcher: llguidance.LLMatcher) -> None:
    if matcher.is_error():
        raise ConfigurationError(f"the JSON schema can't be enforced: {_one_line(matcher.get_error())}")


def _one_line(message: str) -> str:
    return " ".join(message.split())
