"""Read YAML that others wrote. A few lines of it may stand for a structure that no memory holds: bounds come first."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

MAX_BYTES = 8 << 20
"""Of a text, and of what its aliases stand for: each use counts with its characters and `_VALUE_BYTES` a value."""
MAX_DEPTH = 50
_VALUE_BYTES = 32
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
# Digits with underscores, in any notation of 64 bits.
_LONGEST_NUMBER = 200


class BoundedLoader(yaml.SafeLoader):
    """A safe loader that refuses aliases of themselves, deep nesting, large expansions and integers beyond 64 bits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        # Bytes and depth of every composed node, its aliases written out.
        self._measured: dict[int, tuple[int, int]] = {}
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401 - as in yaml
        """Compose a node, or return the one that an alias stands for."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nests deeper than {MAX_DEPTH} levels", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and id(node) not in self._measured:
            if is_alias:
                raise yaml.composer.ComposerError(None, None, "an alias stands for what it is a part of", mark)
            self._measured[id(node)] = self._measure(node, mark)
        return node

    def _measure(self, node: yaml.Node, mark: yaml.Mark) -> tuple[int, int]:
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        size = _VALUE_BYTES + (0 if inner else len(node.value)) + sum(self._measured[id(part)][0] for part in inner)
        depth = 1 + max((self._measured[id(part)][1] for part in inner), default=0)
        if size > MAX_BYTES:
            raise yaml.composer.ComposerError(
                None, None, f"takes more than {MAX_BYTES >> 20} MiB when its aliases are written out", mark
            )
        if depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"nests deeper than {MAX_DEPTH} levels", mark)
        return size, depth

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Return a number; very long ones are refused before they are computed."""
        is_integer = node.tag.endswith(":int")
        if len(node.value) <= _LONGEST_NUMBER:
            number = self.construct_yaml_int(node) if is_integer else self.construct_yaml_float(node)
            if not is_integer or _LEAST <= number <= _MOST:
                return number
        shown = node.value[:20]
        raise yaml.constructor.ConstructorError(None, None, f"the number {shown}... is beyond 64 bits", node.start_mark)


for _tag in ("int", "float"):
    BoundedLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", BoundedLoader.construct_number)


def read_yaml(text: str) -> Any:  # noqa: ANN401 - any YAML value
    """Return the content of a YAML document.

    Raises:
        ValueError: the text is not YAML, or exceeds a bound; the message names the line.
    """
    with _loading(text) as loader:
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(node)


def compose_yaml(text: str) -> yaml.Node | None:
    """Return the nodes of a YAML document as they are written, which know their lines; see `read_yaml`."""
    with _loading(text) as loader:
        return loader.get_single_node()


@contextmanager
def _loading(text: str) -> Iterator[BoundedLoader]:
    if len(text) > MAX_BYTES:
        raise ValueError(f"has more than {MAX_BYTES >> 20} MiB: put rows into a table")
    try:
        yield BoundedLoader(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError(f"nests deeper than {MAX_DEPTH} levels") from None
    except Exception as error:  # noqa: BLE001 - constructors of dates, numbers and tags raise anything
        raise ValueError(f"a value can't be read: {error}") from None
