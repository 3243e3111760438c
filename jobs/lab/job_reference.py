"""docs/job-file.md, written from the settings' own models: `python -m jobs.lab.job_reference > docs/job-file.md`."""

import json
import sys
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config import JobConfig, QuestionRow

_HEAD = """# The job file

Look up every key of a job here. The job file is YAML. Relative paths start at its own folder. `flashvid validate` names
each mistake with its line, and `flashvid schema` prints the JSON Schema for editors. Write the keys of a group below
the group's name, or set one for a single call with `--set group.key=value`. `python -m jobs.lab.job_reference` writes
this page from the models that validate a job.
"""


def job_reference() -> str:
    """Return the whole page, in Markdown."""
    groups: list[tuple[str, type[BaseModel]]] = [("", JobConfig)]
    lines = [_HEAD]
    while groups:
        path, model = groups.pop(0)
        summary = (model.__doc__ or "").split("\n\n")[0].strip()
        lines += [f"## {path or 'The job'}", "", summary, "", "| key | values | default | |", "|---|---|---|---|"]
        inner = []
        for name, field in model.model_fields.items():
            dotted = f"{path}.{name}" if path else name
            group = _group(field.annotation)
            if group is not None and group is not QuestionRow:
                inner.append((dotted, group))
            lines.append(_row(name, field, dotted if group not in (None, QuestionRow) else None))
        lines.append("")
        groups = [*inner, *groups]
        if path == "" and model is JobConfig:
            groups.append(("questions, one row", QuestionRow))
    return "\n".join(lines).rstrip() + "\n"


def _row(name: str, field: FieldInfo, group: str | None) -> str:
    values = f"a group: see {group}" if group else ", ".join(dict.fromkeys(_values(field.annotation)))
    bounds = "".join(f", {text}" for text in _bounds(field))
    default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True), group)
    cells = (f"`{name}`", values + bounds, default, field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _default(value: object, group: str | None) -> str:
    if group:
        return "" if isinstance(value, BaseModel) else "none"
    return f"`{json.dumps(value)}`"


def _values(annotation: Any) -> Iterator[str]:  # noqa: ANN401 - an annotation may be anything
    """Yield the possible values, in words."""
    origin = get_origin(annotation)
    if origin is Literal:
        yield from (f"`{value}`" for value in get_args(annotation))
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            if part is not type(None):
                yield from _values(part)
    elif origin is tuple:
        yield f"list of {' or '.join(_values(get_args(annotation)[0]))}"
    elif origin is dict:
        yield "keys and values"
    elif hasattr(annotation, "__metadata__"):
        yield from _values(get_args(annotation)[0])
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield "rows (see below)"
    else:
        yield {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(annotation, "any")


def _bounds(field: FieldInfo) -> Iterator[str]:
    for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
        for constraint in field.metadata:
            if (bound := getattr(constraint, name, None)) is not None:
                yield f"{sign} {bound}"


def _group(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 - an annotation may be anything
    """Return the settings class of a key; None for a plain value."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _group(part)) is not None), None)


if __name__ == "__main__":
    sys.stdout.write(job_reference())
