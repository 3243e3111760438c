"""Fill in chat templates, which are programs that others wrote, within bounds of time and size.

Templates run in Jinja's sandbox, with the settings, filters and globals that Transformers gives to chat templates. Each
turn of a loop, call, filter, operation and output first checks the bounds, so no signal or other process is needed.
"""

import json
import re
import time
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextvars import ContextVar
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

MAX_SECONDS = 2.0
"""CPU time of the thread that fills in a template, which usually takes a thousandth of it."""
MAX_CHARACTERS = 1 << 22
"""Of a template, of any text that it makes, and of all that it writes; an item of a list counts as `_ITEM`."""
_ITEM = 16
_MAX_BITS = 4096
# Filters that search a text in more than linear time.
_SLOW = frozenset({"urlize", "wordwrap", "striptags", "pprint"})
_MAX_SLOW = 100_000
# Filters and methods that add as many characters as a number says: once, or to each line, tab or item.
_WIDENS = frozenset({"center", "ljust", "rjust", "zfill", "slice", "batch", "round"})
_MARKS = {"indent": "\n", "expandtabs": "\t"}
_WIDE_FORMAT = re.compile(r"%[^%a-zA-Z]*\d{5}|\{[^{}]*\d{5}|%[^%a-zA-Z]*\*|\{[^{}]*\{")

_deadline: ContextVar[float] = ContextVar("deadline")
_written: ContextVar[list[int]] = ContextVar("written")


class TemplateBoundError(Exception):
    """A template takes too long, or makes something too large."""


def fill_in(template: str, variables: Mapping[str, Any]) -> str:
    """Return a chat template filled in with variables.

    Raises:
        TemplateBoundError: the template exceeds a bound.
        Exception: the template is not one, or it raises an error; anything can be.
    """
    _check_size(len(template))
    deadline = _deadline.set(time.thread_time() + MAX_SECONDS)
    written = _written.set([0])
    try:
        return str(_compiled(template).render(variables))
    finally:
        _deadline.reset(deadline)
        _written.reset(written)


@lru_cache(maxsize=64)
def _compiled(template: str) -> Any:  # noqa: ANN401 - Jinja's template
    return _Environment().from_string(template)


def _spend() -> None:
    if time.thread_time() > _deadline.get():
        raise TemplateBoundError(f"it takes more than {MAX_SECONDS:g} s of CPU time")


def _check_size(size: int) -> None:
    if size > MAX_CHARACTERS:
        raise TemplateBoundError(f"it makes a text or list of more than {MAX_CHARACTERS:,} characters")


def _size(value: object) -> int:
    """Return the characters and items of a value, of lists and mappings with what is in them, up to the bound."""
    size, waiting = 0, [value]
    while waiting and size <= MAX_CHARACTERS:
        inner = waiting.pop()
        if isinstance(inner, str | bytes | bytearray):
            size += len(inner)
        elif isinstance(inner, int) and inner.bit_length() > _MAX_BITS:
            raise TemplateBoundError(f"it makes an integer of more than {_MAX_BITS} bits")
        elif isinstance(inner, Mapping):
            size += _ITEM * (1 + len(inner))
            waiting += [*inner.keys(), *inner.values()]
        elif isinstance(inner, list | tuple | set | frozenset | KeysView | ValuesView | ItemsView):
            size += _ITEM * (1 + len(inner))
            waiting += inner
        elif isinstance(inner, Namespace):
            waiting.append(object.__getattribute__(inner, "_Namespace__attrs"))
        elif isinstance(inner, range):
            size += len(inner)
        else:
            size += 1
    return size


def _bounded(value: Any) -> Any:  # noqa: ANN401 - any value of a template
    """Return the value itself, after checking time and size."""
    _spend()
    _check_size(_size(value))
    return value


def _output(value: Any) -> Any:  # noqa: ANN401 - any value of a template
    """Return the value itself, after adding it to what the template has written."""
    _spend()
    written = _written.get()
    written[0] += _size(value)
    _check_size(written[0])
    return value


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    for item in items:
        _spend()
        yield item


def _concatenated(parts: list[Any]) -> str:
    _check_size(_size(parts))
    return "".join(map(str, parts))


def _check_call(name: str, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Check a call of a filter or method, of which the first argument is the text or list, before it is made."""
    values = [*arguments, *options.values()]
    size = _size(values)
    _check_size(size)
    numbers = [abs(value) for value in values if isinstance(value, int)]
    first = arguments[0] if arguments else None
    if name in _SLOW and size > _MAX_SLOW:
        raise TemplateBoundError(f"{name} of more than {_MAX_SLOW:,} characters")
    if name in _WIDENS:
        _check_size(max(numbers, default=0))
    elif name == "tojson":
        _check_size(size * max(numbers, default=0))
    elif name in _MARKS and isinstance(first, str):
        _check_size(size + (1 + first.count(_MARKS[name])) * max([8, *numbers]))
    elif name == "replace" and isinstance(first, str) and len(values) > 2:
        old, new = str(values[1]), str(values[2])
        _check_size(len(first) + first.count(old) * max(0, len(new) - len(old)))
    elif name in ("format", "format_map") and isinstance(first, str):
        _check_format(first, values[1:])
    elif name == "join" and len(values) > 1 and all(isinstance(value, str | list | tuple) for value in values[:2]):
        # Of the filter the list is first, of the method the separator is.
        _check_size(size + len(values[0]) * len(values[1]))


def _check_format(text: str, values: Iterable[Any]) -> None:
    if (found := _WIDE_FORMAT.search(text)) is None:
        return
    has_width = found[0][-1] not in "*{"
    if has_width or any(isinstance(value, int) and abs(value) > _MAX_SLOW for value in values):
        raise TemplateBoundError(f"it formats a text with a width of more than {_MAX_SLOW:,}")


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
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols], finalize=_output)
        self.filters["tojson"] = _to_json
        self.filters = {name: _checked(name, function) for name, function in self.filters.items()}
        tests: Mapping[str, Any] = self.tests
        self.tests = {name: _timed(test) for name, test in tests.items()}
        self.filters |= {"_counted": _counted, "_concatenated": _concatenated, "_bounded": _bounded}
        self.globals |= {"raise_exception": _raise, "strftime_now": _now, "namespace": _namespace}
        del self.globals["lipsum"]

    def _generate(self, source: nodes.Template, *arguments: Any, **options: Any) -> str:  # noqa: ANN401 - as in Jinja
        _Bounds().visit(source)
        return str(super()._generate(source, *arguments, **options))

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401, N805 - as in Jinja
        _spend()
        # Jinja wraps the method `format`.
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        texts = (owner, *args) if isinstance(owner, str) else args
        _check_call(getattr(__obj, "__name__", "") if texts is not args else "", texts, kwargs)
        return _bounded(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:  # noqa: ANN401 - as in Jinja
        """Check an operation before it is done."""
        _spend()
        if operator == "%" and isinstance(left, str):
            _check_format(left, right if isinstance(right, tuple) else [right])
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and right > 0:
            _check_size(0 if left.bit_length() * right <= _MAX_BITS else MAX_CHARACTERS + 1)
        elif operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and not isinstance(many, int | float):
                    _check_size(_size(many) * max(times, 0))
        elif operator == "+":
            _check_size(_size([left, right]))
        return _bounded(super().call_binop(context, operator, left, right))


def _checked(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that is checked before and after it is called."""
    # Of the arguments, the environment or the context comes first.
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - any filter
        _spend()
        values = list(arguments)
        if name == "join" and not isinstance(values[skipped], str | list | tuple):
            values[skipped] = list(_counted(values[skipped]))
        _check_call(name, tuple(values[skipped:]), options)
        return _bounded(function(*values, **options))

    return call


def _timed(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a test, as in ``is defined``, that checks the time first."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - any test
        _spend()
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
    _check_format(form, ())
    return datetime.now().strftime(form)
