"""Families of other packages, found through entry points; and the imports that the table of families needs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flashvid.models import load_model, resolve_model
from flashvid.models.registry import FAMILIES
from flashvid.plugins import PluginTable
from tests.support.embedded_model import TIMES, video
from tests.support.packages import install_package, run_python
from tests.support.tiny_families import change_config

GROUP = "flashvid.families"
CODE = """
from flashvid.models.qwen.qwen2_5_vl.facts import Qwen2_5Family

class OtherFamily(Qwen2_5Family):
    name = "other"
    version = 3
    architectures = ("OtherForVideo",)
"""


def test_a_family_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its architecture is recognized, its model loads, and its version is known."""
    install_package(tmp_path, "other_models", GROUP, {"other": "other_models:OtherFamily"}, CODE)
    monkeypatch.syspath_prepend(tmp_path)
    # The table reads entry points once per process.
    monkeypatch.setitem(vars(FAMILIES), "_added", PluginTable(GROUP, {})._added)
    monkeypatch.setattr(FAMILIES, "_loaded", {})
    folder = tmp_path / "model"
    shutil.copytree(resolve_model("tiny-random").path, folder)
    change_config(folder, architectures=["OtherForVideo"])
    model = load_model(str(folder), part="vision", device="cpu")
    assert model.family == [*FAMILIES][-1] == "other"
    assert (FAMILIES.version("other"), FAMILIES.version("qwen2_5_vl")) == (3, None)
    assert model.encode(video(0), TIMES).features.isfinite().all()


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("qwen3_vl", CODE, "two plug-ins of flashvid.families have the name 'qwen3_vl'"),
        ("another", CODE, "it must declare the name 'another'"),
        ("other", CODE.replace("    version = 3\n", ""), "a positive integer version"),
    ],
    ids=["a name that is taken", "another name", "no version"],
)
def test_a_family_that_is_refused(tmp_path: Path, name: str, code: str, message: str) -> None:
    """Looking up the family of any configuration fails, with what is wrong."""
    install_package(tmp_path, "other_models", GROUP, {name: "other_models:OtherFamily"}, code)
    found = run_python(tmp_path, "from flashvid.models.registry import find_family; find_family({})")
    assert found.returncode != 0
    assert message in found.stderr


def test_families_are_known_without_torch(tmp_path: Path) -> None:
    """Planning reads the facts of every family; neither torch nor transformers is imported for that."""
    script = (
        "import sys; from flashvid.models.registry import FAMILIES, find_family;"
        "print([find_family({'architectures': [name]}).name for family in FAMILIES.values() "
        "for name in family.architectures[:1]]);"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    found = run_python(tmp_path, script)
    names, heavy = found.stdout.splitlines()
    # The LLaVA families share an architecture; without settings of pooling, the first one takes the configuration.
    assert json.loads(names.replace("'", '"')) == ["qwen2_5_vl", "qwen3_vl", "llava_onevision", "llava_onevision"]
    assert heavy == "[]"
