"""Where a model's files are, and which model exactly they are; nothing is loaded here."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flashvid.errors import ModelLoadError
from flashvid.models.weights import Checkpoint

# What inference needs; a repository may hold pickles, images and other formats beside it. The settings are a few
# megabytes, the weights gigabytes.
SETTINGS_FILES = ("*.json", "*.jinja", "*.txt")
ALL_FILES = (*SETTINGS_FILES, "*.safetensors")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class ModelSource:
    """A model's directory, checked to be complete; without weights, if it was resolved so.

    Attributes:
        name: As the user wrote it.
        path: The local directory.
        family: Name of its family, for instance ``qwen2_5_vl``.
    """

    name: str
    path: Path
    family: str

    @property
    def commit(self) -> str | None:
        """The hub commit of a snapshot in the hub's cache (models--owner--model/snapshots/<commit>), else None."""
        snapshots, repository = self.path.parent, self.path.parent.parent
        is_snapshot = snapshots.name == "snapshots" and repository.name.startswith("models--")
        return self.path.name if is_snapshot and _COMMIT.fullmatch(self.path.name) else None

    @cached_property
    def identity(self) -> str:
        """What the model is: ``owner/model@commit`` for a hub snapshot, else a SHA-256 over what inference reads.

        The digest covers configurations, tokenizer, chat template and weights, and not where they are. It reads the
        whole checkpoint once: seconds for a few gigabytes.
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
        """The content of config.json."""
        return read_json(self.path / "config.json")

    def checkpoint(self) -> Checkpoint:
        """The weights' files."""
        return Checkpoint(self.path)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a model's directory.

    Raises:
        ModelLoadError: it does not parse, or is no object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # of JSON and of UTF-8
        raise ModelLoadError(f"{file.name} can't be read: {error}", str(file.parent)) from None
    if not isinstance(content, dict):
        raise ModelLoadError(f"{file.name} holds no JSON object", str(file.parent))
    return content


def chat_template(path: Path) -> str | None:
    """A model's chat template, wherever its directory keeps it."""
    plain = path / "chat_template.jinja"
    if plain.is_file():
        return plain.read_text(encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (path / name).is_file():
            template = read_json(path / name).get("chat_template")
            if isinstance(template, str):
                return template
    return None
