"""Chat templates: the same texts as Transformers makes, and an end to those that would have none."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from flashvid.models import template_bounds
from flashvid.models.bounded_template import fill_in
from flashvid.models.template_bounds import TemplateBoundError

MESSAGES = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief.\n"}]},
    {"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "Is it <b>red</b> & 'new'? 日本"}]},
]
VARIABLES: dict[str, Any] = {
    "bos_token": "<s>",
    "messages": MESSAGES,
    "tools": None,
    "documents": None,
    "add_generation_prompt": True,
}


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.last }}{{ loop.previtem is defined }}"
        "{{ m.role }}\n{% endfor %}",
        "{%- set ns = namespace(n=0) %}{% for m in messages if m.role != 'system' %}"
        "{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        "{% macro show(c) %}{{ '<video>' if c.type == 'video' else c.text | trim }}{% endmacro %}"
        "{% for m in messages %}{% for c in m.content %}{{ show(c) }}{% endfor %}{% else %}none{% endfor %}",
        "{{ messages | tojson }}{{ messages | tojson(indent=2) }}{{ messages[0] }}{{ [1, (2, 'a'), {'b': none}] }}",
        "{{ bos_token ~ messages[0].role ~ 1 ~ missing ~ none }}{{ 'a' + 'b' * 3 }}"
        "{{ 7 // 2 }}{{ 2 ** 10 }}{{ '%s-%05d' % ('x', 3) }}",
        "{% generation %}{{ messages[1].content[1].text.split('?')[0] | upper }}{% endgeneration %}",
        "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
        "{{ messages | map(attribute='role') | join(', ') }}{{ 'a,b'.replace(',', '--') }}{{ 'x'.center(9) }}"
        "{{ '{:>4}'.format(1) }}",
        "{% set x %}a{{ bos_token }}b{% endset %}{{ x | length }}{{ x is string }}{{ range(3) | list }}"
        "{{ dict(a=1).items() | list }}",
        "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% endfor %}{% for x in [[1, [2]]] recursive %}"
        "{{ loop(x) if x is iterable else x }}{% endfor %}",
        "  {% if true %}\n  x\n  {% endif %}\n{# c #}\n y\n",
        "{{ messages[1].content | selectattr('type', 'equalto', 'text') | map(attribute='text') | first | indent(2) }}",
        "{% call(x) f() %}{{ x }}{% endcall %}"
        if False
        else "{{ none }}{{ undefined_name }}{{ true and 'yes' }}{{ [1, 2, 3][::-1] }}",
    ],
)
def test_the_text_is_that_of_transformers(template: str) -> None:
    """Loops, scopes, filters, whitespace and the extensions that models use."""
    variables = {name: value for name, value in VARIABLES.items() if name not in ("messages", "tools", "documents")}
    (expected,), _ = render_jinja_template([MESSAGES], chat_template=template, **variables)
    assert fill_in(template, VARIABLES) == expected


DOUBLE = "{% set ns = namespace(x=SEED) %}{% for i in range(99) %}{% set ns.x = STEP %}{% endfor %}"
BOMBS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "loops over one list": "{% set x = range(99999) | list %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
    "macros that call themselves twice": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}"
    "{% endif %}{% endmacro %}{{ f(80) }}",
    "a recursive loop": "{% for a in range(99999) recursive %}{{ loop(range(99999)) }}{% endfor %}",
    "a long text": "{{ 'a' * 9999999999 }}",
    "a long list": "{{ ([0] * 9999999999) | length }}",
    "a power": "{{ 10 ** (10 ** 8) }}",
    "powers of powers": "{% set ns = namespace(x=3) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}",
    "adding": DOUBLE.replace("SEED", "'a'").replace("STEP", "ns.x + ns.x"),
    "joining": DOUBLE.replace("SEED", "'a'").replace("STEP", "ns.x ~ ns.x"),
    "the join filter": DOUBLE.replace("SEED", "'a'").replace("STEP", "[ns.x, ns.x] | join"),
    "the method join": DOUBLE.replace("SEED", "'a'").replace("STEP", "ns.x.join(['', '', ''])"),
    "a separator": "{{ range(99999) | join('a' * 999999) }}",
    "replace": DOUBLE.replace("SEED", "'a'").replace("STEP", "ns.x.replace('a', 'aa')"),
    "the replace filter": DOUBLE.replace("SEED", "'a'").replace("STEP", "ns.x | replace('a', 'aaa')"),
    "escape": DOUBLE.replace("SEED", "'&'").replace("STEP", "(ns.x | string).replace('&', '&&')"),
    "lists in lists": DOUBLE.replace("SEED", "[1]").replace("STEP", "[ns.x, ns.x]") + "{{ ns.x }}",
    "objects in objects": DOUBLE.replace("SEED", "[1]").replace("STEP", "{1: ns.x, 2: ns.x}") + "{{ ns.x | tojson }}",
    "namespaces in namespaces": DOUBLE.replace("SEED", "1").replace("STEP", "namespace(a=ns.x, b=ns.x)") + "{{ ns.x }}",
    "blocks": "{% set x %}aaaaaaaaaa{% endset %}" + "{% set x %}{{ x }}{{ x }}{% endset %}" * 60,
    "width": "{{ 'a'.center(9999999999) }}",
    "width of a filter": "{{ 'a' | center(9999999999) }}",
    "indent": "{{ ('\n' * 99999) | indent(99999999) }}",
    "indent of JSON": "{{ messages | tojson(indent=999999999) }}",
    "format": "{{ '%9999999999d' % 1 }}",
    "format with a star": "{{ '%*d' % (9999999999, 1) }}",
    "the method format": "{{ '{:>9999999999}'.format(1) }}",
    "a nested format": "{{ '{:>{}}'.format(1, 9999999999) }}",
    "slices": "{{ [1] | slice(9999999999) | list }}",
    "zeros": "{{ '1'.zfill(9999999999) }}",
    "many searches": "{% set x = 'ab' * 999999 %}{% for i in range(99999) %}{{ 'c' if 'bb' in x }}{% endfor %}",
    "many tests": "{% set x = 'ab' * 999999 %}{{ (['bb'] * 999999) | select('in', x) | list }}",
    "a long template": "a" * (1 << 23),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a thread, where signals do not work, soon, and without taking much memory."""
    monkeypatch.setattr(template_bounds, "MAX_SECONDS", 0.2)
    raised: list[BaseException] = []

    def render() -> None:
        try:
            fill_in(BOMBS[name], VARIABLES)
        except BaseException as error:  # noqa: BLE001 - looked at below
            raised.append(error)

    begun = time.process_time()
    thread = threading.Thread(target=render)
    thread.start()
    thread.join(300)
    assert not thread.is_alive()
    assert time.process_time() - begun < 3
    (error,) = raised
    # Jinja's own bound of `range`, and Python's of recursion and of the digits of a number, end some as well.
    assert isinstance(error, TemplateBoundError | OverflowError | RecursionError), error


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ namespace(__call__=1) }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('no system role') }}",
        "{{ lipsum(99999) }}",
        "{{" * 2000,
        "{{ " + "(" * 3000 + ")" * 3000 + " }}",
    ],
)
def test_what_a_sandbox_refuses(template: str) -> None:
    """An exception, not a crash; or nothing of Python's own."""
    try:
        text = fill_in(template, VARIABLES)
    except Exception:  # noqa: BLE001 - a template may raise anything
        return
    assert "class" not in text


def test_large_questions_are_fine() -> None:
    """A question with a megabyte of subtitles, through the usual operations."""
    long = "line of subtitles\n" * 60_000
    template = "{{ messages[0] | trim }}{% for line in messages[0].split('\n') %}{{ line ~ '\n' }}{% endfor %}"
    assert fill_in(template, {"messages": [long]}) == long.strip() + long + "\n"
