"""Fill in chat templates, which are programs that others wrote, within bounds of time and size.

Templates run in Jinja's sandbox, with the settings, filters and globals that Transformers gives to chat templates. Each
turn of a loop, call, filter, operation and output first checks the bounds, so no signal or other process is needed.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from flashvid.models.template_bounds import (
    bounded,
    bounds,
    check_bits,
    check_call,
    check_format,
    check_size,
    concatenated,
    counted,
    size_of,
    spend,
    written,
)


def fill_in(template: str, variables: Mapping[str, Any]) -> str:
    """Return a chat template filled in with variables.

    Raises:
        TemplateBoundError: the template exceeds a bound.
        Exception: the template is not one, or it raises an error; anything can be.
    """
    check_size(len(template))
    with bounds():
        return str(_compiled(template).render(variables))


@lru_cache(maxsize=64)
def _compiled(template: str) -> Any:  # noqa: ANN401 - Jinja's template
    return _Environment().from_string(template)


class _Bounds(NodeTransformer):
    """Puts a check around every loop, concatenation and literal of a template."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - as the node is called
        """Count the turns of a loop."""
        self.generic_visit(node)
        node.iter = _through("_counted", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        """Check the size of ``a ~ b``."""
        self.generic_visit(node)
        parts: Any = nodes.List(list(node.nodes))
        return _through("_concatenated", parts.set_lineno(node.lineno).set_environment(node.environment))

    def _literal(self, node: Any) -> nodes.Expr:  # noqa: ANN401 - a node
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") != "load" else _through("_bounded", node)

    visit_List = visit_Dict = visit_Tuple = _literal  # noqa: N815


def _through(name: str, node: Any) -> nodes.Filter:  # noqa: ANN401 - a node
    """Return an expression that passes a value through one of our filters."""
    passed = nodes.Filter(node, name, [], [], None, None)
    passed.set_lineno(node.lineno)
    passed.set_environment(node.environment)
    return passed


class _Generation(Extension):
    """Accepts ``{% generation %}``, which marks the assistant's turns for training."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node:
        """Return the block's content, in a scope of its own."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


class _Names(Namespace):
    """A namespace without names that begin with an underscore, which could reach Python's own."""

    def __setitem__(self, name: str, value: Any) -> None:  # noqa: ANN401 - any value of a template
        if str(name).startswith("_"):
            raise SecurityError(f"a namespace can't have the name {name!r}")
        super().__setitem__(name, value)


def _namespace(*arguments: Any, **values: Any) -> _Names:  # noqa: ANN401 - as in Jinja
    names = _Names()
    for name, value in dict(*arguments, **values).items():
        names[name] = value
    return names


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with the settings of Transformers' chat templates, and with bounds."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=written)
        self.filters["tojson"] = _to_json
        self.filters = {name: _checked(name, function) for name, function in self.filters.items()}
        tests: Mapping[str, Any] = self.tests
        self.tests = {name: _timed(test) for name, test in tests.items()}
        self.filters |= {"_counted": counted, "_concatenated": concatenated, "_bounded": bounded}
        self.globals |= {"raise_exception": _raise, "strftime_now": _now, "namespace": _namespace}
        del self.globals["lipsum"]

    def _generate(self, source: nodes.Template, *arguments: Any, **options: Any) -> str:  # noqa: ANN401 - as in Jinja
        _Bounds().visit(source)
        return str(super()._generate(source, *arguments, **options))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, N805 - as in Jinja
        spend()
        # Jinja wraps the method `format`.
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        texts = (owner, *args) if isinstance(owner, str) else args
        check_call(getattr(__obj, "__name__", "") if texts is not args else "", texts, kwargs)
        return bounded(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - as in Jinja
        """Check an operation before it is done."""
        spend()
        if operator == "%" and isinstance(left, str):
            check_format(left, right if isinstance(right, tuple) else [right])
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and right > 0:
            check_bits(left.bit_length() * right)
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and not isinstance(many, int | float):
                    check_size(size_of(many) * max(times, 0))
        elif operator == "+":
            check_size(size_of([left, right]))
        return bounded(super().call_binop(context, operator, left, right))


def _checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that is checked before and after it is called."""
    # Of the arguments, the environment or the context comes first.
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - any filter
        spend()
        values = list(arguments)
        if name == "join" and not isinstance(values[skipped], str | list | tuple):
            values[skipped] = list(counted(values[skipped]))
        check_call(name, tuple(values[skipped:]), options)
        return bounded(function(*values, **options))

    return call


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a test, as in ``is defined``, that checks the time first."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - any test
        spend()
        return function(*arguments, **options)

    return call


def _to_json(
    value: Any,  # noqa: ANN401 - any value of a template
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    check_format(form, ())
    return datetime.now().strftime(form)
