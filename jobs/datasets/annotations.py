"""Published annotations: JSON lists, JSONL, Parquet or CSV, read with errors that name the file and the row."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashvid.bounded_json import parse_json
from pipeline.errors import InputTableError
from pipeline.inputs.tables import is_table, read_table


@dataclass(frozen=True)
class Annotation:
    """One row of an annotation file.

    Attributes:
        fields: As published.
        where: The file and the row, for errors.
        number: The row's number, from 1.
    """

    fields: dict[str, Any]
    where: str
    number: int

    def get(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return a field, or None if it is missing."""
        return self.fields.get(name)

    def value(self, name: str) -> Any:  # noqa: ANN401 - any JSON value
        """Return a required field. Raises InputTableError if it is missing."""
        if self.fields.get(name) is None:
            raise InputTableError(f"has no {name!r}; its fields are {', '.join(self.fields)}", self.where)
        return self.fields[name]

    def text(self, name: str) -> str:
        """Return a required field as text. Raises InputTableError."""
        return str(self.value(name))

    def texts(self, name: str) -> list[str]:
        """Return a required field that holds a list, as texts. Raises InputTableError."""
        found = self.value(name)
        if not isinstance(found, list):
            raise InputTableError(f"{name!r} is not a list: {found!r}", self.where)
        return [str(each) for each in found]

    def letter(self, right: object, count: int) -> str:
        """Return the letter of one of `count` options, given by its letter or its number from 0.

        Raises:
            InputTableError: there is no such option.
        """
        letters = [chr(ord("A") + index) for index in range(count)]
        name = str(right).strip()
        if name not in letters and not (name.isdecimal() and int(name) < count):
            raise InputTableError(f"the answer {right!r} is not one of {count} options", self.where)
        return name if name in letters else letters[int(name)]

    def letter_of(self, right: object, options: list[str]) -> str:
        """Return the letter of one of the options, given by its text. Raises InputTableError for another text."""
        if str(right) not in options:
            raise InputTableError(f"the answer {right!r} is not one of {options}", self.where)
        return chr(ord("A") + options.index(str(right)))


def read_annotations(file: Path) -> list[Annotation]:
    """Read a file's annotations.

    Raises:
        InputTableError: the file is missing, or not a list of objects.
    """
    is_json = file.suffix == ".json"
    rows = read_json(file) if is_json or not is_table(str(file)) else read_table(str(file), {}).to_pylist()
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputTableError("is not a JSON list of objects", str(file))
    return [Annotation(row, f"{file}, row {number}", number) for number, row in enumerate(rows, 1)]


def read_json(file: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Read a JSON file. Raises InputTableError."""
    try:
        return parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputTableError(f"can't be read as JSON: {error}", str(file)) from None


def files_of(annotations: Path) -> list[Path]:
    """Return the annotation files: this file, or the JSON files of this folder or its folder `json`.

    Raises:
        InputTableError: there is none.
    """
    if annotations.is_file():
        return [annotations]
    for folder in (annotations / "json", annotations):
        if files := sorted(folder.glob("*.json")):
            return files
    raise InputTableError("is neither an annotation file nor a folder with JSON files", str(annotations))
