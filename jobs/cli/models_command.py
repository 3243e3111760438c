"""`flashvid models`: what can be loaded, with which settings it was published, and what its directory must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flashvid.models.registry import FAMILIES
from flashvid.models.resolve import NEEDED_FILES, OPTIONAL_FILES, embedded_models, resolve_model
from flashvid.presets import PRESETS
from jobs.cli.options import write_json, write_rows

_FAMILY_COLUMNS = {
    "name": "family",
    "architectures": "architectures in config.json",
    "special_tokens": "special tokens of the tokenizer",
}
_PRESET_COLUMNS = {
    "name": "preset",
    "published_for": "published for",
    "num_layers": "layers",
    "token_selection_method": "token_selection_method",
    "min_segment_num": "min_segment_num",
    "alpha": "alpha",
    "expansion": "expansion",
    "pruning_layer": "pruning_layer",
    "llm_retention_ratio": "llm_retention_ratio",
}
_EMBEDDED_COLUMNS = {"name": "embedded model", "family": "family", "num_layers": "layers", "weights_bytes": "bytes"}


def describe_models() -> dict[str, Any]:
    """Families, presets, embedded models and files, as JSON has them; no weight is read and torch not loaded."""
    families = [
        {
            "name": family.name,
            "architectures": list(family.architectures),
            "special_tokens": list(family.special_tokens),
            "presets": [preset.name for preset in PRESETS.values() if preset.family == family.name],
        }
        for family in FAMILIES.values()
    ]
    return {
        "families": families,
        "presets": [asdict(preset) for preset in PRESETS.values()],
        "embedded": [_describe_embedded(name) for name in embedded_models()],
        "files": {"needed": list(NEEDED_FILES), "read_if_there": list(OPTIONAL_FILES)},
    }


def show_model(name: str, *, as_json: bool, console: Console | None = None) -> None:
    """Check one model's directory and print its family.

    Raises:
        ModelLoadError: nothing of that name, a family that is not supported, or something missing.
    """
    model, console = resolve_model(name), console or Console()
    if as_json:
        write_json(console, {"name": name, "family": model.family, "path": str(model.path)})
    else:
        write_rows(console, [("model", name), ("family", model.family), ("path", str(model.path))])


def show_models(*, as_json: bool, console: Console | None = None) -> None:
    """Print them: tables, or one JSON object."""
    console, models = console or Console(), describe_models()
    if as_json:
        write_json(console, models)
        return
    console.print(_table(models["families"], _FAMILY_COLUMNS))
    console.print(_table(models["presets"], _PRESET_COLUMNS))
    console.print(_table(models["embedded"], _EMBEDDED_COLUMNS))
    for title, names in (("a model's directory must hold", NEEDED_FILES), ("read if there", OPTIONAL_FILES)):
        console.print(Text.assemble((title, "bold"), *(f"\n  {name}" for name in names)))


def _describe_embedded(name: str) -> dict[str, Any]:
    source = resolve_model(name)
    return {
        "name": name,
        "family": source.family,
        "num_layers": FAMILIES[source.family].num_layers(source.config()),
        "path": str(source.path),
        "weights_bytes": sum(file.stat().st_size for file in source.path.glob("*.safetensors")),
    }


def _table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Table:
    table = Table()
    for title in columns.values():
        table.add_column(title, overflow="fold")
    for row in rows:
        # Text, not markup: what stands in angle or square brackets is shown as it is.
        table.add_row(*(Text(_shown(row[name])) for name in columns))
    return table


def _shown(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
