"""The error trees: what is drawn is what there is, and errors survive the trip between processes."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from types import ModuleType

import pytest

import flashvid.errors
import pipeline.errors
from flashvid.errors import FatalError, FlashVidError, PermanentError, TransientError
from pipeline.errors import DamagedObjectError

KINDS = {TransientError: "transient", PermanentError: "permanent", FatalError: "fatal"}


def defined_in(module: ModuleType) -> dict[str, type[FlashVidError]]:
    """Every error class a module defines itself."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, FlashVidError) and value.__module__ == module.__name__
    }


CLASSES = [*defined_in(flashvid.errors).values(), *defined_in(pipeline.errors).values()]


def drawn_parents(docstring: str) -> dict[str, str | None]:
    """The tree in a docstring: each class with the class it hangs on."""
    return dict(_drawn(docstring))


def _drawn(docstring: str) -> Iterator[tuple[str, str | None]]:
    path: list[str] = []
    margin = 0
    for line in docstring.splitlines():
        # The root stands alone on its line, every other class behind a branch; four columns are one level.
        if match := re.search(r"^ *(\w+Error)$|[├└]── (\w+)", line):
            name = match[1] or match[2]
            column = line.index(name)
            if match[1]:
                margin = column
            depth = (column - margin) // 4
            path = [*path[:depth], name]
            yield name, path[-2] if depth else None


@pytest.mark.parametrize("error_class", [cls for cls in CLASSES if cls is not DamagedObjectError])
@pytest.mark.parametrize("row", ["video_id 'a7'", None])
def test_an_error_survives_pickling(error_class: type[FlashVidError], row: str | None) -> None:
    """Ray moves errors between processes: type, message, row and kind arrive."""
    sent = error_class("the message: 100 % {odd}", row)
    received = pickle.loads(pickle.dumps(sent))  # noqa: S301 - our own bytes
    assert type(received) is error_class
    assert (received.message, received.row, received.kind) == ("the message: 100 % {odd}", row, sent.kind)
    assert str(received) == ("video_id 'a7': the message: 100 % {odd}" if row else "the message: 100 % {odd}")


def test_an_error_with_fields_of_its_own_survives_pickling() -> None:
    """It names the object and the command, whatever slashes the URL has."""
    received = pickle.loads(pickle.dumps(DamagedObjectError("100 % {odd}", "s3://bucket/out/", "runs/1.json")))  # noqa: S301
    assert str(received).startswith(
        "s3://bucket/out/runs/1.json: is damaged (100 % {odd}): flashvid verify OUTPUT --re"
    )
    assert (received.reason, received.kind) == ("100 % {odd}", "fatal")


@pytest.mark.parametrize("error_class", CLASSES, ids=lambda cls: cls.__name__)
def test_an_error_has_the_kind_of_its_one_branch(error_class: type[FlashVidError]) -> None:
    """The branch decides what happens next, so no error sits on two, and none changes its branch's kind."""
    branches = [branch for branch in KINDS if issubclass(error_class, branch)]
    if error_class is FlashVidError:
        assert branches == []
    else:
        assert [KINDS[branch] for branch in branches] == [error_class.kind]


@pytest.mark.parametrize("module", [flashvid.errors, pipeline.errors], ids=lambda module: module.__name__)
def test_the_drawn_tree_is_the_real_one(module: ModuleType) -> None:
    """Every class of the module is drawn, under the class it inherits from, and nothing else is."""
    drawn = drawn_parents(module.__doc__ or "")
    base_classes = {cls.__name__: cls for cls in (FlashVidError, *KINDS)}
    real = {
        name: next((base.__name__ for base in cls.__bases__ if issubclass(base, FlashVidError)), None)
        for name, cls in (base_classes | defined_in(module)).items()
    }
    assert drawn == real


def test_the_tree_parser_sees_a_misplaced_class() -> None:
    """The parser itself tells depth: a leaf moved one level up is another tree."""
    tree = "AError\n├── BError    words\n│   └── CError\n└── DError\n    └── EError"
    assert drawn_parents(tree) == {
        "AError": None, "BError": "AError", "CError": "BError", "DError": "AError", "EError": "DError",
    }  # fmt: skip
    assert drawn_parents(tree.replace("│   └── C", "├── C"))["CError"] == "AError"
