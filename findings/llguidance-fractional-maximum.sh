#!/usr/bin/env bash
# llguidance: `maximum: 12.5` in a JSON schema forbids the text 12.50.
#
# Guess:    A grammar made from {"type": "number", "minimum": 2.5, "maximum": 12.5} accepts any usual spelling of the numbers from 2.5 to
#           12.5. If it restricts spellings at all, it does so in the same way at both ends.
# Surprise: 12.50 is rejected, though 12.5, 12.49 and 12.00 are accepted. At the lower end 2.50 is accepted. A whole maximum has no such
#           gap: with `maximum: 12`, 12.0 and 12.00 are accepted. The same schema without bounds accepts 12.50.
# Matters:  A model that answers in seconds with two decimals can write every time of a clip but its end. At that place the grammar
#           masks the digit 0, and the model's most likely text is replaced without an error or a warning.
# Do:       Where the number of decimals matters, write the numbers as a regular expression or a rule of their own and check the bound
#           after parsing; or round a fractional maximum up to a whole number.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    llguidance==1.9.1 jsonschema==4.26.0 jsonschema-specifications==2025.9.1 attrs==26.1.0 referencing==0.37.0 rpds-py==2026.9.1 \
    typing_extensions==4.16.0

cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import json
import sys
from importlib.metadata import version

import jsonschema
from llguidance import LLMatcher, LLTokenizer

print(*(f"{name} {version(name)}" for name in ("llguidance", "jsonschema")), sep=", ")
TOKENIZER = LLTokenizer("byte")  # one token per byte: no vocabulary is involved


def accepts(schema: dict, text: str) -> bool:
    """Whether the grammar of a schema accepts the whole text."""
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_json_schema(json.dumps(schema)))
    assert not matcher.is_error(), matcher.get_error()
    tokens = TOKENIZER.tokenize_str(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


FRACTION = {"type": "number", "minimum": 2.5, "maximum": 12.5}
WHOLE = {"type": "number", "minimum": 2, "maximum": 12}
FREE = {"type": "number"}
cases = [
    (FRACTION, "12.5", True), (FRACTION, "12.49", True), (FRACTION, "12.499", True), (FRACTION, "12.00", True),
    (FRACTION, "12.50", False), (FRACTION, "12.500", False),
    (FRACTION, "2.5", True), (FRACTION, "2.50", True), (FRACTION, "2.500", True),
    (WHOLE, "12", True), (WHOLE, "12.0", True), (WHOLE, "12.00", True), (WHOLE, "2.00", True),
    (FREE, "12.50", True),
]  # fmt: skip
unchanged = True
for schema, text, described in cases:
    jsonschema.validate(json.loads(text), schema)  # every text is a valid instance
    found = accepts(schema, text)
    unchanged &= found == described
    status = "as described" if found == described else "CHANGED"
    print(f"{status}: {json.dumps(schema)} {'accepts' if found else 'REJECTS'} {text} (valid by jsonschema)")
sys.exit(0 if unchanged else 1)
PYTHON
