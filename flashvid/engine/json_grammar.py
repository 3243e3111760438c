"""Answers as JSON: which tokens may come next so that an answer satisfies a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import llguidance
import numpy as np

from flashvid.errors import ConfigurationError

if TYPE_CHECKING:
    import torch
    from llguidance import LLTokenizer
    from llguidance._lib import JsonCompileOptions  # a type only, in its type information

# One way to write a value: a model that likes blanks can't spend its tokens on them. Keywords that would not be
# enforced are refused, whatever the schema itself asks for.
_WRITING: JsonCompileOptions = {
    "item_separator": ", ",
    "key_separator": ": ",
    "whitespace_flexible": False,
    "coerce_one_of": False,
    "lenient": False,
}


class JsonGrammar:
    """A schema as a tokenizer's tokens can write it. Answers begin from it and leave it as it is."""

    def __init__(self, schema: str, tokenizer: LLTokenizer) -> None:
        """Compile a schema.

        Args:
            schema: JSON text, as `schema_text` gives it.
            tokenizer: Of the model, with the tokens that end an answer.

        Raises:
            ConfigurationError: the schema is invalid, asks for what can't be enforced, or is too complex.
        """
        self._begun = llguidance.LLMatcher(tokenizer, _grammar(schema), log_level=0)
        _check(self._begun)

    def begin(self) -> JsonAnswer:
        """An answer without any token yet."""
        return JsonAnswer(self._begun.deep_copy())


class JsonAnswer:
    """How far one answer has come: a state of its own, whatever else is answered beside it."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    @property
    def is_complete(self) -> bool:
        """Whether the JSON is whole and nothing can be added to it."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def masked(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits `[V]` with minus infinity for every token that must not come next.

        Raises:
            ConfigurationError: the schema has become too complex, or the tokenizer has no token to go on with.
        """
        import torch

        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        _check(self._matcher)
        # A model may have more rows of logits than its tokenizer has tokens: nothing is written with those.
        allowed = np.zeros(len(logits), dtype=bool)
        stored = np.unpackbits(bits, bitorder="little")[: len(logits)]
        allowed[: len(stored)] = stored
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -torch.inf)

    def append(self, token: int) -> None:
        """Go on with a token that was allowed.

        Raises:
            ConfigurationError: see `masked`.
        """
        self._matcher.consume_token(token)
        _check(self._matcher)


def schema_text(schema: object) -> str:
    """A JSON schema, as a mapping or as JSON text, as text; the order of its keys is that of the answers' properties.

    Raises:
        ValueError: no JSON object, no JSON schema, or one with a keyword that can't be enforced; says what.
    """
    try:
        content = json.loads(schema) if isinstance(schema, str) else schema
        # As text and back: what JSON does not have, dates and sets for instance, is found here.
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the JSON schema is not JSON: {error}") from None
    if not isinstance(content, Mapping):
        raise ValueError("a JSON schema must be an object")
    is_error, messages = llguidance.LLMatcher.validate_grammar_with_warnings(_grammar(text))
    if is_error:
        raise ValueError(f"the JSON schema can't be enforced: {_one_line(messages[0])}")
    return text


def _grammar(schema: str) -> str:
    return llguidance.LLMatcher.grammar_from_json_schema(schema, overrides=_WRITING)


def _check(matcher: llguidance.LLMatcher) -> None:
    if matcher.is_error():
        raise ConfigurationError(f"the JSON schema can't be enforced: {_one_line(matcher.get_error())}")


def _one_line(message: str) -> str:
    return " ".join(message.split())
