"""JSON schemas of answers and chat templates."""

from __future__ import annotations

from hypothesis import strategies as st
from jinja2 import TemplateError

from flashvid.engine import json_grammar
from flashvid.models.bounded_template import fill_in
from flashvid.models.template_bounds import TemplateBoundError
from tests.fuzz.kind import Kind

_WORDS = st.sampled_from([
    "type", "object", "array", "string", "integer", "number", "boolean", "null", "properties", "items", "enum", "const",
    "required", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "anyOf", "allOf",
    "oneOf", "not", "$ref", "#", "#/properties/a", "additionalProperties", "format", "date", "a", "[a-z]{3}", "(", "^$",
])  # fmt: skip
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**40), st.floats(), _WORDS, st.text(max_size=4)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_WORDS, inner, max_size=4),
    max_leaves=10,
)
_PIECES = st.sampled_from([
    "{{ a }}", "{% for x in a %}", "{% endfor %}", "{% if a %}", "{% endif %}", "{{ a ** a }}", "{{ 'x' * 99 }}", "{#",
    "#}", "{{ a.__class__ }}", "{{ range(9) }}", "{% set b = a %}", "{{ a | tojson }}", "{{ a[0] }}", "{{ b }}", "}}",
    "{% macro m() %}", "{{ m() }}", "{% endmacro %}", "{{ raise_exception('x') }}", "{% include 'a' %}", "{{ 1 / 0 }}",
    "text", "\n", "\0",
])  # fmt: skip
_OF_TEMPLATES = (
    TemplateError, TemplateBoundError, ArithmeticError, TypeError, ValueError, LookupError, AttributeError
)  # fmt: skip


def check_schema(schema: object) -> None:
    """A text that compiles, or a ValueError of one line."""
    try:
        text = json_grammar.schema_text(schema)
    except ValueError as error:
        assert str(error)
        assert "\n" not in str(error)
        return
    assert isinstance(text, str)


def check_template(template: str) -> None:
    """A text, or an error of Jinja or of our bounds: what the caller turns into one message."""
    from jinja2 import TemplateError

    try:
        assert isinstance(fill_in(template, {"a": [3, "b"]}), str)
    except (
        TemplateError,
        TemplateBoundError,
        ArithmeticError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
    ) as error:
        assert not isinstance(error, AssertionError)


SCHEMAS = Kind(
    st.one_of(_VALUES, st.dictionaries(_WORDS, _VALUES, max_size=4)),
    check_schema,
    seeds=({}, {"$ref": "#"}, {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"pattern": "("}, {"enum": []}),
)
TEMPLATES = Kind(
    st.lists(_PIECES, max_size=8).map("".join),
    check_template,
    seeds=("{% for x in range(99999) %}{% for y in range(99999) %}{% endfor %}{% endfor %}", "{{ 9 ** 9 ** 9 }}"),
)
