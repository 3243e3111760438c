"""The job file: YAML to a `JobConfig`, with errors that name the line and the key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from flashvid.errors import ConfigurationError
from pipeline.config import JobConfig
from pipeline.inputs.tables import is_table

_PATH_KEYS = ("videos", "output", "cache")
# Settings of `generation` that hold a text and may name a file with it, which is told by its ending.
_TEXT_FILES = {"chat_template": ".jinja", "json_schema": ".json"}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a job file.

    Attributes:
        where: The line and the key, or the override.
        line: Counted from 1; None for what is in no line.
        key: Dotted.
        message: What is wrong there.
    """

    where: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def load_job(path: str | Path, overrides: Mapping[str, Any] | None = None) -> JobConfig:
    """Read and check a job file.

    Relative paths in it are meant from the job file's own folder.

    Args:
        path: A YAML file.
        overrides: Values by dotted key, ``{"compression.retention_ratio": 0.1}``, set before the check.

    Raises:
        ConfigurationError: no such file, not YAML, an unknown key (with the nearest known one) or a wrong value; every
            fault of the file is listed, each with its line and key. A template's or schema's file can't be read.
    """
    checked = check_job(path, overrides)
    if isinstance(checked, JobConfig):
        return checked
    heading = "the job file has faults:" if len(checked) > 1 else ""
    raise ConfigurationError("\n  ".join([heading, *map(str, checked)]).strip(), str(path))


def check_job(path: str | Path, overrides: Mapping[str, Any] | None = None) -> JobConfig | list[Fault]:
    """Read a job file: the job, or everything that is wrong with its keys and values.

    Args:
        path: As in `load_job`.
        overrides: As there.

    Raises:
        ConfigurationError: no such file, not YAML, a key twice; a template's or schema's file can't be read.
    """
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"can't read the job file: {error.strerror}", str(path)) from None
    except UnicodeDecodeError:
        raise ConfigurationError("the job file is not UTF-8 text", str(path)) from None
    try:
        content = yaml.safe_load(text)
        lines = dict(_key_lines(yaml.compose(text)))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"not YAML: {error}", str(path)) from None
    if not isinstance(content, dict):
        raise ConfigurationError("the job file holds no keys", str(path))
    for key, value in (overrides or {}).items():
        _set(content, key, value)
    try:
        return JobConfig.model_validate(_from_folder(content, file.parent))
    except ValidationError as error:
        return _faults(error, content, lines, overrides or {})


def _set(content: dict[str, Any], dotted: str, value: object) -> None:
    *groups, last = dotted.split(".")
    for group in groups:
        inner = content.setdefault(group, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f"{group} is no group of settings, so {dotted} can't be set")
        content = inner
    content[last] = value


def _from_folder(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same content with relative paths made absolute, and texts that stand in files of their own read."""
    resolved = dict(content)
    for key in _PATH_KEYS:
        if isinstance(resolved.get(key), str) and resolved[key]:
            resolved[key] = _absolute(resolved[key], folder)
    if isinstance(resolved.get("questions"), str) and is_table(resolved["questions"]):
        resolved["questions"] = _absolute(resolved["questions"], folder)
    model = resolved.get("model")
    # A hub id looks like a relative path: only a directory that is there is meant as one.
    if isinstance(model, dict) and isinstance(model.get("name"), str) and (folder / model["name"]).is_dir():
        resolved["model"] = {**model, "name": _absolute(model["name"], folder)}
    generation = resolved.get("generation")
    if isinstance(generation, dict):
        resolved["generation"] = {key: _text(key, value, folder) for key, value in generation.items()}
    return resolved


def _text(key: str, value: object, folder: Path) -> object:
    """What a setting of `generation` holds: where it names a file, what is in that."""
    if key not in _TEXT_FILES or not isinstance(value, str) or not value.endswith(_TEXT_FILES[key]):
        return value
    try:
        return Path(_absolute(value, folder)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"generation.{key}: {value} can't be read: {error}") from None


def _absolute(path: str, folder: Path) -> str:
    return path if "://" in path else str((folder / Path(path).expanduser()).absolute())


def _key_lines(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Every key of a YAML document with its line, counted from 1."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            inner = (*prefix, str(key.value))
            if key.value in seen:
                raise ConfigurationError(f"line {key.start_mark.line + 1}, {'.'.join(inner)}: occurs twice")
            seen.add(key.value)
            yield inner, key.start_mark.line + 1
            yield from _key_lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            inner = (*prefix, str(index))
            yield inner, item.start_mark.line + 1
            yield from _key_lines(item, inner)


def _faults(
    error: ValidationError,
    content: Mapping[str, Any],
    lines: Mapping[tuple[str, ...], int],
    overrides: Mapping[str, Any],
) -> list[Fault]:
    seen: dict[str, Fault] = {}
    for fault in error.errors(include_url=False):
        location = tuple(str(part) for part in fault["loc"])
        keys = _keys(fault["loc"], content)
        if fault["type"] == "missing":
            keys = (*keys, location[-1])
        dotted = ".".join(keys) or "job"
        line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
        where = f"--set {dotted}" if dotted in overrides else f"line {line}, {dotted}" if line else dotted
        if fault["type"] == "extra_forbidden":
            message = f"unknown key{_suggestion(location)}"
        elif fault["type"] == "missing":
            message = "is missing"
        else:
            # What storage_options hold may be a secret, and is refused for that very reason.
            got = "" if "storage_options" in location else f" (got {_shown(fault['input'])})"
            message = fault["msg"].removeprefix("Value error, ") + got
        named = Fault(where, line, dotted, message)
        seen[str(named)] = named
    return list(seen.values())


def _keys(location: Sequence[str | int], content: object) -> tuple[str, ...]:
    """The part of a fault's location that is in the job.

    Pydantic also names the branch of a union it tried ("str", "tuple[...]"), which is no key.
    """
    keys: list[str] = []
    for part in location:
        if (isinstance(content, dict) and part in content) or (
            isinstance(content, list) and isinstance(part, int) and part < len(content)
        ):
            keys.append(str(part))
            content = content[part]  # type: ignore[index]
    return tuple(keys)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggestion(location: tuple[str, ...]) -> str:
    known = list(_group(location[:-1]).model_fields)
    near = get_close_matches(location[-1], known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"


def _group(location: tuple[str, ...]) -> type[BaseModel]:
    """The settings class that a key belongs to."""
    group: type[BaseModel] = JobConfig
    for name in location:
        if name in group.model_fields:
            annotation = group.model_fields[name].annotation
            models = [kind for kind in (annotation, *_arguments(annotation)) if _is_model(kind)]
            group = models[0] if models else group
    return group


def _arguments(annotation: object) -> Iterator[Any]:
    for argument in get_args(annotation):
        yield argument
        yield from _arguments(argument)


def _is_model(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
