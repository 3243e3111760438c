"""`flashvid models`: what is listed is what there is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flashvid.errors import ModelLoadError
from flashvid.models import resolve_model
from flashvid.models.registry import FAMILIES
from flashvid.models.resolve import NEEDED_FILES, embedded_models
from flashvid.presets import PRESETS
from jobs.cli.main import app

FLASHVID = (sys.executable, "-c", "from jobs.cli.main import main; main()")
# The same, and afterwards what was imported.
TRACED = "import sys; from jobs.cli.main import app; app(standalone_mode=False); print(*sys.modules, file=sys.stderr)"


def test_json_lists_everything() -> None:
    """Families, presets with their settings, embedded models and files; nothing else on stdout."""
    done = subprocess.run([*FLASHVID, "models", "--json"], capture_output=True, text=True, timeout=300, check=True)
    listed = json.loads(done.stdout)
    assert [family["name"] for family in listed["families"]] == [*FAMILIES]
    assert sorted(name for family in listed["families"] for name in family["presets"]) == sorted(PRESETS)
    by_name = {preset["name"]: preset for preset in listed["presets"]}
    assert by_name.keys() == PRESETS.keys()
    small = by_name["qwen3_vl_4b"]
    assert (small["num_layers"], small["pruning_layer"], small["llm_retention_ratio"]) == (36, 24, 0.4)
    assert {model["name"] for model in listed["embedded"]} == set(embedded_models())
    tiny = next(model for model in listed["embedded"] if model["name"] == "tiny-random")
    assert (tiny["family"], tiny["num_layers"]) == ("qwen2_5_vl", 3)
    assert tiny["weights_bytes"] == (Path(tiny["path"]) / "model.safetensors").stat().st_size
    assert listed["files"]["needed"] == list(NEEDED_FILES)


def test_nothing_heavy_is_imported() -> None:
    """Neither torch nor transformers nor Ray: a list needs none of them."""
    done = subprocess.run(
        [sys.executable, "-c", TRACED, "models", "--json"], capture_output=True, text=True, timeout=300, check=True
    )
    imported = done.stderr.split()
    assert "jobs.cli.setup_commands" in imported
    assert not {"torch", "transformers", "ray"} & set(imported)


def test_the_list_shows_all_names() -> None:
    """Whole, with their brackets and bars."""
    shown = CliRunner().invoke(app, ["models"], env={"COLUMNS": "200"}).stdout
    for name in (*PRESETS, *embedded_models(), *NEEDED_FILES, "Qwen3VLForConditionalGeneration", "<|video_pad|>"):
        assert name in shown
    as_json = CliRunner().invoke(app, ["models", "--json"]).stdout
    assert yaml.safe_load(shown) == json.loads(as_json)


@pytest.mark.parametrize("needed", NEEDED_FILES)
def test_every_file_that_is_said_to_be_needed_is(tmp_path: Path, needed: str) -> None:
    """Without it the model is refused."""
    folder = tmp_path / "model"
    shutil.copytree(resolve_model("tiny-random").path, folder)
    name = needed.split(maxsplit=1)[0]
    if name == "chat_template.jinja":
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        del settings["chat_template"]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    else:
        (folder / name).unlink()
    with pytest.raises(ModelLoadError, match="there is no"):
        resolve_model(str(folder))


def test_one_model_by_name(tmp_path: Path) -> None:
    """Its family; of one that is not whole, what is missing."""
    done = CliRunner().invoke(app, ["models", "tiny-random", "--json"])
    path = resolve_model("tiny-random").path
    assert json.loads(done.stdout) == {"name": "tiny-random", "family": "qwen2_5_vl", "path": str(path)}
    shutil.copytree(path, tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    refused = CliRunner().invoke(app, ["models", str(tmp_path / "model")])
    assert isinstance(refused.exception, ModelLoadError)
