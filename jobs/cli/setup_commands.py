"""Commands that look at this installation: doctor, models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson, StorageOptions, assignments, open_job
from jobs.cli.printing import PROBLEM, print_json, print_result, print_table, print_text, shown

if TYPE_CHECKING:
    from jobs.doctor import Check

_STYLES = {"ok": "green", "note": "yellow", "failed": "bold red"}
_JOB_FILES = (".yaml", ".yml", ".json")


def doctor(
    job: Annotated[str | None, typer.Argument(help="a job file, or the folder or URL of a job's output")] = None,
    address: Annotated[str | None, typer.Option(help="a Ray cluster, HOST:PORT; default: check no cluster")] = None,
    storage_option: StorageOptions = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation, the GPU, a job's tables and storage, and a cluster, by using each.

    Writes one small object where the job would write, and deletes it. Exit code 1 if a check fails.

    Example: flashvid doctor job.yaml --address 10.0.0.1:6379
    """
    from rich.text import Text

    found = list(_checks(job, address, storage_option))
    failed = sum(check.state == "failed" for check in found)
    if as_json:
        print_json({"failed": failed, "checks": [asdict(check) for check in found]})
    else:
        rows = []
        for check in found:
            found_here = f"{check.found}\n-> {check.fix}" if check.fix else check.found
            state = Text(check.state, style=_STYLES[check.state])
            rows.append((state, f"{check.area}: {check.name}", Text(shown(found_here))))
        print_table(("", "check", "found"), rows)
        print_text(f"{failed} of {len(found)} checks failed" if failed else f"{len(found)} checks, none failed")
    if failed:
        raise typer.Exit(PROBLEM)


def _checks(job: str | None, address: str | None, storage_option: list[str] | None) -> Iterator[Check]:
    # A late import: `flashvid --help` does not wait for torch and Ray.
    from jobs.doctor import check_cluster, check_gpu, check_installation, check_storage, check_tables

    settings = open_job(Path(job)) if job and Path(job).suffix in _JOB_FILES else None
    yield from check_installation()
    yield from check_gpu()
    if settings is not None:
        yield from check_tables(settings)
        for key, url in (("output", settings.output), ("cache", settings.cache or None)):
            if url is not None:
                yield from check_storage(key, url, settings.storage_options)
    elif job:
        yield from check_storage("output", job, assignments(storage_option, "--storage-option"))
    if address:
        yield from check_cluster(address)


def models(
    name: Annotated[str | None, typer.Argument(help="directory, hub id or embedded model to check")] = None,
    as_json: AsJson = False,
) -> None:
    """List the supported model families, their published settings, the embedded models and what each needs.

    With a name, check that model and print its family. Exit code 2 if it is not supported or a file is missing.

    Example: flashvid models --json
    """
    import yaml

    from flashvid.models.resolve import resolve_model

    if name is not None:
        model = resolve_model(name)
        family, path = model.family, str(model.path)
        text = f"{name}: family {family}, {path}"
        print_result({"name": name, "family": family, "path": path}, text, as_json=as_json)
        return
    listed = describe_models()
    print_result(listed, yaml.safe_dump(listed, sort_keys=False, width=1000).rstrip(), as_json=as_json)


def describe_models() -> dict[str, Any]:
    """Return families, presets, embedded models and files, for JSON; reads no weights and does not load torch."""
    from flashvid.models.registry import FAMILIES
    from flashvid.models.resolve import NEEDED_FILES, OPTIONAL_FILES, embedded_models, resolve_model
    from flashvid.presets import PRESETS

    families = []
    for family in FAMILIES.values():
        lists = {"architectures": list(family.architectures), "special_tokens": list(family.special_tokens)}
        presets = [preset.name for preset in PRESETS.values() if preset.family == family.name]
        families.append({"name": family.name, **lists, "presets": presets})
    embedded = [
        {
            "name": name,
            "family": source.family,
            "num_layers": FAMILIES[source.family].num_layers(source.config()),
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
