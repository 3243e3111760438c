"""Where the files of a model are, and the identity of the model that they hold."""

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flashvid.bounded_json import parse_json
from flashvid.errors import ModelLoadError
from flashvid.models.weights import Checkpoint

# The files that inference needs: repositories also hold pickles, images and other formats. Settings take megabytes,
# weights gigabytes.
SETTINGS_FILES = ("*.json", "*.jinja", "*.txt")
ALL_FILES = (*SETTINGS_FILES, "*.safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelSource:
    """The directory of a model, checked to be complete; weights are checked only if the model was resolved with them.

    Attributes:
        name: The name that the user gave.
        path: The local directory.
        family: Name of its family, for instance ``qwen2_5_vl``.
    """

    name: str
    path: Path
    family: str

    @property
    def commit(self) -> str | None:
        """The commit of a snapshot in the hub's cache (models--owner--model/snapshots/<commit>); None elsewhere."""
        snapshots, repository = self.path.parent, self.path.parent.parent
        is_snapshot = snapshots.name == "snapshots" and repository.name.startswith("models--")
        return self.path.name if is_snapshot and _COMMIT.fullmatch(self.path.name) else None

    @cached_property
    def identity(self) -> str:
        """The identity of the model: ``owner/model@commit`` for a hub snapshot, else a SHA-256 of the files it reads.

        The digest covers configurations, tokenizer, chat template and weights, but not their location. Computing it
        reads the whole checkpoint once, which takes seconds for a few gigabytes.
        """
        if self.commit is not None:
            repository = self.path.parent.parent.name.removeprefix("models--").replace("--", "/")
            return f"{repository}@{self.commit}"
        whole = hashlib.sha256()
        for file in sorted(path for pattern in ALL_FILES for path in self.path.glob(pattern)):
            with file.open("rb") as content:
                part = hashlib.file_digest(content, "sha256")
            whole.update(f"{file.name} {part.hexdigest()}\n".encode())
        return f"sha256:{whole.hexdigest()}"

    def config(self) -> dict[str, Any]:
        """Return the content of config.json."""
        return read_json(self.path / "config.json")

    def checkpoint(self) -> Checkpoint:
        """Return the files of weights."""
        return Checkpoint(self.path)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object from a model's directory.

    Raises:
        ModelLoadError: The file does not parse, or does not hold an object.
    """
    try:
        content = parse_json(file.read_text(encoding="utf-8"), any_integer=True)
    except ValueError as error:  # of JSON and of UTF-8
        raise ModelLoadError(f"{file.name} can't be read: {error}", str(file.parent)) from None
    if not isinstance(content, dict):
        raise ModelLoadError(f"{file.name} does not hold a JSON object", str(file.parent))
    return content


def chat_template(path: Path) -> str | None:
    """Return the chat template of the model in a directory, from the file that holds it; None without one."""
    plain = path / "chat_template.jinja"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (path / name).is_file():
            template = read_json(path / name).get("chat_template")
            if isinstance(template, str):
                return template
    return None
