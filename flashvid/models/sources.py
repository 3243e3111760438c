"""Where a model's files are, and which model exactly they are; nothing is loaded here."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from flashvid.errors import ModelLoadError
from flashvid.models.weights import Checkpoint

_EMBEDDED = Path(__file__).parent / "embedded"
# What inference needs; a repository may hold pickles, images and other formats beside it.
_HUB_PATTERNS = ("*.json", "*.safetensors", "*.jinja", "*.txt")
_FAMILIES: Mapping[str, str] = {"Qwen2_5_VLForConditionalGeneration": "qwen2_5_vl"}


@dataclass(frozen=True)
class ModelSource:
    """A model's directory, checked to be complete enough to be tried.

    Attributes:
        name: As the user wrote it.
        path: The local directory.
        family: Key of the implementation, for instance ``qwen2_5_vl``.
        commit: The hub commit, None for a local directory.
    """

    name: str
    path: Path
    family: str
    commit: str | None = None

    @cached_property
    def identity(self) -> str:
        """What the model is: its hub commit, else a SHA-256 over every file that inference reads.

        Hashing reads the whole checkpoint once: seconds for a few gigabytes.
        """
        if self.commit is not None:
            return f"{self.name}@{self.commit}"
        whole = hashlib.sha256()
        for file in sorted(path for pattern in _HUB_PATTERNS for path in self.path.glob(pattern)):
            with file.open("rb") as content:
                part = hashlib.file_digest(content, "sha256")
            whole.update(f"{file.name} {part.hexdigest()}\n".encode())
        return f"sha256:{whole.hexdigest()}"

    def config(self) -> dict[str, Any]:
        """The content of config.json."""
        return _read_config(self.path)

    def checkpoint(self) -> Checkpoint:
        """The weights' files."""
        return Checkpoint(self.path)


def resolve_model(name: str, revision: str | None = None) -> ModelSource:
    """Find a model: an embedded one, a local directory, or a hub id.

    Args:
        name: ``tiny-random``, a path, or ``owner/model``.
        revision: Branch, tag or commit, for a hub id only.

    Raises:
        ModelLoadError: nothing of that name, files missing, or an architecture that is not supported.
    """
    path, commit = _locate(name, revision)
    config = _read_config(path)
    architectures = config.get("architectures") or ["none given"]
    family = next((_FAMILIES[known] for known in architectures if known in _FAMILIES), None)
    if family is None:
        raise ModelLoadError(
            f"architecture {', '.join(architectures)} is not supported; supported: {', '.join(_FAMILIES)}", str(path)
        )
    source = ModelSource(name, path, family, commit)
    source.checkpoint().check_readable()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        if not (path / file).is_file():
            raise ModelLoadError(f"there is no {file}", str(path))
    return source


def embedded_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(folder.name for folder in _EMBEDDED.iterdir() if folder.is_dir()) if _EMBEDDED.is_dir() else []


def _locate(name: str, revision: str | None) -> tuple[Path, str | None]:
    if name in embedded_models():
        return _EMBEDDED / name, None
    if Path(name).is_dir():
        return Path(name).absolute(), None
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelLoadError(
            f"no such model directory, and no embedded model of that name ({', '.join(embedded_models())})", name
        )
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=list(_HUB_PATTERNS)))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelLoadError(f"is no local directory and could not be had from the hub: {reason}", name) from None
    return path, path.name  # the hub's cache names snapshots by their commit


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError("there is no config.json", str(path)) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"config.json can't be read: {error}", str(path)) from None
    if not isinstance(config, dict):
        raise ModelLoadError("config.json holds no object", str(path))
    return config
