"""Find the model that a name stands for (embedded, a directory or a hub id), and check its files."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from flashvid.errors import FlashVidError, ModelLoadError, first_line
from flashvid.models.registry import FAMILIES, find_family
from flashvid.models.source import ALL_FILES, SETTINGS_FILES, ModelSource, chat_template, read_json

_EMBEDDED = Path(__file__).parent / "embedded"

# Files that a model's directory must hold, checked before loading, and files that are read if present.
NEEDED_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja (or inside tokenizer_config.json or chat_template.json)",
    "model.safetensors (or shards with model.safetensors.index.json)",
)
OPTIONAL_FILES = ("generation_config.json", "video_preprocessor_config.json", "preprocessor_config.json")


def resolve_model(name: str, revision: str | None = None, *, weights: bool = True) -> ModelSource:
    """Find a model and check its directory, without reading weights.

    Args:
        name: An embedded model (``tiny-random``), a local directory, or a hub id (``owner/model``).
        revision: Branch, tag or commit, for a hub id only.
        weights: Whether weights are required; False downloads only configurations and tokenizer from the hub.

    Raises:
        ModelLoadError: No model has that name, its architecture is not supported, or files, tokens or tensors are
            missing; the message names them.
    """
    path = _locate(name, revision, ALL_FILES if weights else SETTINGS_FILES)
    with model_errors(path):
        source = _checked_source(name, revision, path)
        if weights:
            _check_weights(source)
        return source


@contextmanager
def model_errors(path: Path, passed: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn every unexpected error inside into a `ModelLoadError`: a model's files may be damaged in any way.

    Args:
        path: The model's directory.
        passed: Errors that do not come from the files and are left as they are, besides those of this library.

    Raises:
        ModelLoadError: In place of any other error.
    """
    try:
        yield
    except FlashVidError:
        raise
    except passed:
        raise
    except Exception as error:
        what = f"its files can't be used: {type(error).__name__}: {first_line(error)}"
        raise ModelLoadError(what, str(path)) from error


def _checked_source(name: str, revision: str | None, path: Path) -> ModelSource:
    if not (path / "config.json").is_file():
        raise ModelLoadError("there is no config.json", str(path))
    config = read_json(path / "config.json")
    family = find_family(config)
    if family is None:
        given = ", ".join(config.get("architectures") or [str(config.get("model_type"))])
        supported = ", ".join(dict.fromkeys(name for known in FAMILIES.values() for name in known.architectures))
        raise ModelLoadError(f"architecture {given} is not supported; supported: {supported}", str(path))
    if problem := family.check_config(config):
        raise ModelLoadError(problem, str(path))
    source = ModelSource(name, path, family.name)
    if revision is not None and (name in embedded_models() or Path(name).is_dir()) and source.commit != revision:
        raise ModelLoadError(f"revision {revision} is given for a directory, only hub ids have one: leave it out", name)
    _check_tokenizer(path, family.special_tokens)
    return source


def _check_weights(source: ModelSource) -> None:
    """Check by the headers of the files that the tensors are those of the architecture."""
    config, stored = source.config(), source.checkpoint().files
    family = FAMILIES[source.family]
    needed, unused = family.needed_tensors(config, stored, "all"), family.unused_tensors(config, stored)
    if missing := [name for name in needed if name not in stored]:
        raise ModelLoadError(f"the weights lack {_enumerate(missing)}", str(source.path))
    # Unknown tensors mean another architecture, or an adapter that was not merged.
    if unexpected := sorted(name for name in {*stored} - {*needed} if not name.startswith(unused)):
        raise ModelLoadError(f"there are unexpected tensors: {_enumerate(unexpected)}", str(source.path))


def embedded_models() -> list[str]:
    """Return the names of the models that ship with the package."""
    return sorted(folder.name for folder in _EMBEDDED.iterdir() if folder.is_dir())


def _locate(name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    if name in embedded_models():
        return _EMBEDDED / name
    if name and Path(name).is_dir():
        return Path(name).absolute()
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelLoadError(
            f"no such model directory, and no embedded model of that name ({', '.join(embedded_models())})", name
        )
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        what = f"not a directory, and download from the Hugging Face Hub failed: {first_line(error)}"
        raise ModelLoadError(what, name) from None


def _check_tokenizer(path: Path, special_tokens: tuple[str, ...]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (path / name).is_file():
            raise ModelLoadError(f"there is no {name}", str(path))
    added: list[Mapping[str, Any]] = read_json(path / "tokenizer.json").get("added_tokens") or []
    known = {token.get("content") for token in added}
    if missing := [token for token in special_tokens if token not in known]:
        raise ModelLoadError(f"the tokenizer lacks {', '.join(missing)}", str(path))
    if chat_template(path) is None:
        raise ModelLoadError("there is no chat template", str(path))


def _enumerate(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
