"""Annotation files as rows: JSON lists, JSONL, Parquet, CSV, with errors that name the file and the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pipeline.errors import InputTableError
from pipeline.inputs.tables import is_table, read_table


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read a file's annotations.

    Raises:
        InputTableError: no such file, or not a list of objects.
    """
    if is_table(str(file)):
        rows: list[dict[str, Any]] = read_table(str(file), {}).to_pylist()
        return rows
    content = read_json(file)
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise InputTableError("is no JSON list of objects", str(file))
    return content


def read_json(file: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    """Read a JSON file. Raises InputTableError."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputTableError(f"can't be read as JSON: {error}", str(file)) from None


def files_of(annotations: Path) -> list[Path]:
    """The annotation files: this one, or the JSON files of this folder or its folder `json`.

    Raises:
        InputTableError: there is none.
    """
    if annotations.is_file():
        return [annotations]
    for folder in (annotations / "json", annotations):
        if files := sorted(folder.glob("*.json")):
            return files
    raise InputTableError("is no annotation file, and no folder with JSON files", str(annotations))


def value(row: dict[str, Any], name: str, file: Path, number: int) -> Any:  # noqa: ANN401 - whatever stands there
    """A field that must be there. Raises InputTableError with the file and the row."""
    if row.get(name) is None:
        raise InputTableError(f"has no {name!r}; its fields are {', '.join(row)}", f"{file}, row {number}")
    return row[name]


def text(row: dict[str, Any], name: str, file: Path, number: int) -> str:
    """A field that must be there, as text. Raises InputTableError."""
    return str(value(row, name, file, number))


def texts(row: dict[str, Any], name: str, file: Path, number: int) -> list[str]:
    """A field that must hold a list, as texts. Raises InputTableError."""
    found = value(row, name, file, number)
    if not isinstance(found, list):
        raise InputTableError(f"{name!r} is no list: {found!r}", f"{file}, row {number}")
    return [str(each) for each in found]


def letter(right: object, count: int, file: Path, number: int) -> str:
    """The letter of an option that is given by its letter, or by its number from 0.

    Args:
        right: What the annotation says.
        count: How many options there are.
        file: Where it stands.
        number: In which row.

    Raises:
        InputTableError: it is none of them.
    """
    letters = [chr(ord("A") + index) for index in range(count)]
    name = str(right).strip()
    if name in letters:
        return name
    if name.isdecimal() and int(name) < count:
        return letters[int(name)]
    raise InputTableError(f"the answer {right!r} is none of {count} options", f"{file}, row {number}")
