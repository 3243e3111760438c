"""The job file: YAML to a `JobConfig`, with errors that name the line and the key."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from flashvid.errors import ConfigurationError
from jobs.bounded_yaml import MAX_BYTES, compose_yaml, read_yaml
from pipeline.config import JobConfig
from pipeline.inputs.tables import is_table
from pipeline.printable import printable
from pipeline.redaction import redacted

# Settings of `generation` that hold a text, and the suffix of a file that may hold it instead.
_TEXT_FILES = {"chat_template": ".jinja", "json_schema": ".json"}


@dataclass(frozen=True)
class Fault:
    """What is wrong with a job file.

    Attributes:
        where: The line and the key, or the override.
        line: Counted from 1; None if it is not in a line.
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

    Relative paths in it start at the job file's own folder.

    Args:
        path: A YAML file.
        overrides: Values by dotted key, ``{"compression.retention_ratio": 0.1}``, set before the check.

    Raises:
        ConfigurationError: the file is missing, is not YAML, or has an unknown key (the nearest known one is named) or
            a wrong value; every fault is listed with its line and key. A template's or schema's file can't be read.
    """
    checked = check_job(path, overrides)
    if isinstance(checked, JobConfig):
        return checked
    heading = "the job file has faults:" if len(checked) > 1 else ""
    raise ConfigurationError("\n  ".join([heading, *map(str, checked)]).strip(), str(path))


def check_job(path: str | Path, overrides: Mapping[str, Any] | None = None) -> JobConfig | list[Fault]:
    """Read a job file; return the job, or everything that is wrong with its keys and values.

    Args:
        path: As in `load_job`.
        overrides: As there.

    Raises:
        ConfigurationError: the file is missing, is not YAML, or has a key twice; a template's or schema's file can't be
            read.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(MAX_BYTES + 1)
        content = read_yaml(text)
        lines = dict(_key_lines(compose_yaml(text)))
    except OSError as error:
        raise ConfigurationError(f"can't read the job file: {error.strerror}", str(path)) from None
    except UnicodeDecodeError:
        raise ConfigurationError("the job file is not UTF-8 text", str(path)) from None
    except ConfigurationError:
        raise
    except ValueError as error:
        raise ConfigurationError(f"not YAML: {error}", str(path)) from None
    if not isinstance(content, dict):
        raise ConfigurationError("the job file holds no keys", str(path))
    for key, value in (overrides or {}).items():
        _set(content, key, value)
    try:
        return JobConfig.model_validate(_from_folder(content, Path(path).parent))
    except ValidationError as error:
        return _faults(error, content, lines, overrides or {})


def _set(content: dict[str, Any], dotted: str, value: object) -> None:
    *groups, last = dotted.split(".")
    for group in groups:
        content = content.setdefault(group, {})
        if not isinstance(content, dict):
            raise ConfigurationError(f"{group} is not a group of settings, so {dotted} can't be set")
    content[last] = value


def _from_folder(content: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the content with relative paths made absolute, and texts read from their files."""
    resolved = dict(content)
    for key in ("videos", "output", "cache", "questions"):
        value = resolved.get(key)
        if isinstance(value, str) and value and (key != "questions" or is_table(value)):
            resolved[key] = _absolute(value, folder)
    model, generation = resolved.get("model"), resolved.get("generation")
    # A hub id looks like a relative path: only an existing directory is taken for one.
    if isinstance(model, dict) and isinstance(model.get("name"), str) and (folder / model["name"]).is_dir():
        resolved["model"] = {**model, "name": _absolute(model["name"], folder)}
    if isinstance(generation, dict):
        resolved["generation"] = {key: _text(key, value, folder) for key, value in generation.items()}
    return resolved


def _text(key: str, value: object, folder: Path) -> object:
    """Return the value of a setting of `generation`, read from the file that it names, if any."""
    if key not in _TEXT_FILES or not isinstance(value, str) or not value.endswith(_TEXT_FILES[key]):
        return value
    try:
        return Path(_absolute(value, folder)).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"generation.{key}: {value} can't be read: {error}") from None


def _absolute(path: str, folder: Path) -> str:
    return path if "://" in path else str((folder / Path(path).expanduser()).absolute())


def _key_lines(node: yaml.Node | None, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield every key of a YAML document with its line, counted from 1."""
    pairs: list[tuple[str, yaml.Node, yaml.Node]] = []
    if isinstance(node, yaml.MappingNode):
        pairs = [(str(key.value), key, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        pairs = [(str(index), item, item) for index, item in enumerate(node.value)]
    seen: set[str] = set()
    for name, key, value in pairs:
        inner, line = (*prefix, name), key.start_mark.line + 1
        if name in seen:
            raise ConfigurationError(f"line {line}, {printable('.'.join(inner))}: occurs twice")
        seen.add(name)
        yield inner, line
        yield from _key_lines(value, inner)


def _faults(
    error: ValidationError,
    content: Mapping[str, Any],
    lines: Mapping[tuple[str, ...], int],
    overrides: Mapping[str, Any],
) -> list[Fault]:
    seen: dict[str, Fault] = {}
    for fault in error.errors(include_url=False):
        location, kind = tuple(map(str, fault["loc"])), fault["type"]
        keys = _keys(fault["loc"], content) + (location[-1:] if kind == "missing" else ())
        dotted = printable(".".join(keys)) or "job"
        line = next((lines[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in lines), None)
        where = f"--set {dotted}" if dotted in overrides else f"line {line}, {dotted}" if line else dotted
        # A value of storage_options may be a secret, which is the very reason why it is refused.
        got = "" if "storage_options" in location else f" (got {_shown(fault['input'])})"
        message = "is missing" if kind == "missing" else fault["msg"].removeprefix("Value error, ") + got
        if kind == "extra_forbidden":
            message = f"unknown key{_suggestion(location)}"
        named = Fault(where, line, dotted, message)
        seen[str(named)] = named
    return list(seen.values())


def _keys(location: Sequence[str | int], content: object) -> tuple[str, ...]:
    """Return the part of a fault's location that is in the job.

    Pydantic also names the branch of a union that it tried ("str", "tuple[...]"), which is not a key.
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
    text = redacted(repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _suggestion(location: tuple[str, ...]) -> str:
    """Name the nearest known key of a group, or all of its keys."""
    group: type[BaseModel] = JobConfig
    for name in location[:-1]:
        if name in group.model_fields:
            group = next(_models(group.model_fields[name].annotation), group)
    near = get_close_matches(location[-1], group.model_fields, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(group.model_fields)}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:  # noqa: ANN401 - an annotation may be anything
    """Yield the settings classes in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
