"""`flashvid models`: what can be loaded, with which published settings, and what a model directory must hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.cli.options import AsJson
from jobs.cli.printing import print_json, print_rows, print_table, print_text

# Columns of the table of each list in the JSON object.
_PRESET = ("name", "published_for", "num_layers", "token_selection_method", "min_segment_num", "alpha", "expansion")
_COLUMNS = {
    "families": ("name", "architectures", "special_tokens"),
    "presets": (*_PRESET, "pruning_layer", "llm_retention_ratio"),
    "embedded": ("name", "family", "num_layers", "weights_bytes"),
}


def models(
    name: Annotated[str | None, typer.Argument(help="directory, hub id or embedded model to check")] = None,
    as_json: AsJson = False,
) -> None:
    """List the supported model families, their published settings, the embedded models and what each needs.

    With a name, check that model and print its family. Exit code 2 if it is not supported or a file is missing.

    Example: flashvid models --json
    """
    from flashvid.models.source import resolve_model

    if name is not None:
        model = resolve_model(name)
        found = {"family": model.family, "path": str(model.path)}
        if as_json:
            print_json({"name": name, **found})
        else:
            print_rows([("model", name), *found.items()])
        return
    listed = describe_models()
    if as_json:
        print_json(listed)
        return
    for table, columns in _COLUMNS.items():
        cells = ([_shown(row[key]) for key in columns] for row in listed[table])
        print_table([table, *columns[1:]], cells)
    for title, names in (("a model directory must hold", "needed"), ("read if present", "read_if_there")):
        print_text("\n  ".join([title, *listed["files"][names]]))


def describe_models() -> dict[str, Any]:
    """Return families, presets, embedded models and files, for JSON; reads no weights and does not load torch."""
    from flashvid.models.registry import FAMILIES, family_named
    from flashvid.models.source import NEEDED_FILES, OPTIONAL_FILES, embedded_models, resolve_model
    from flashvid.presets import PRESETS

    families = [
        {
            "name": family.name,
            "architectures": list(family.architectures),
            "special_tokens": list(family.special_tokens),
            "presets": [preset.name for preset in PRESETS.values() if preset.family == family.name],
        }
        for family in FAMILIES
    ]
    embedded = [
        {
            "name": name,
            "family": source.family,
            "num_layers": family_named(source.family).num_layers(source.config()),
            "path": str(source.path),
            "weights_bytes": sum(file.stat().st_size for file in source.path.glob("*.safetensors")),
        }
        for name in embedded_models()
        for source in [resolve_model(name)]
    ]
    return {
        "families": families,
        "presets": [asdict(preset) for preset in PRESETS.values()],
        "embedded": embedded,
        "files": {"needed": list(NEEDED_FILES), "read_if_there": list(OPTIONAL_FILES)},
    }


def _shown(value: object) -> str:
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)
