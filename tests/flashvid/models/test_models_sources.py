"""Resolving a model, its identity, and the errors that come before weights are read."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from flashvid.errors import ConfigurationError, ModelLoadError
from flashvid.models import ModelSource, load_model, resolve, resolve_model
from flashvid.models.qwen.qwen2_5_vl.facts import Qwen2_5Family

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TINY = resolve_model("tiny-random")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Copy the embedded model, for tests to damage."""
    return Path(shutil.copytree(TINY.path, tmp_path / "model"))


def change_json(file: Path, **changes: Any) -> None:
    """Set keys of a JSON file; None removes one."""
    content = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def rename_tensors(folder: Path, *replacements: tuple[str, str]) -> None:
    """Rewrite the weights with other names."""
    weights = load_file(folder / "model.safetensors")
    for old, new in replacements:
        weights = {name.replace(old, new): tensor for name, tensor in weights.items()}
    save_file(weights, folder / "model.safetensors")


def shard(folder: Path) -> None:
    """Split the weights into two files with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in shards.items():
        save_file({name: weights[name] for name in members}, folder / file)
    index = {"weight_map": {name: file for file, members in shards.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def old_layout(folder: Path) -> None:
    """Rename tensors as in the published Qwen2.5-VL files."""
    rename_tensors(folder, ("model.language_model.", "model."), ("model.visual.", "visual."))


def test_the_embedded_model_is_found_by_name() -> None:
    """Nothing is downloaded."""
    assert (TINY.name, TINY.family) == ("tiny-random", "qwen2_5_vl")
    assert TINY.path.is_dir()
    assert TINY.identity.startswith("sha256:")


def test_identity_is_of_the_content(folder: Path) -> None:
    """Neither the location nor files that inference does not read change it."""
    (folder / "README.md").write_text("Changed.")
    assert resolve_model(str(folder)).identity == TINY.identity


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_identity_covers_every_setting(folder: Path, name: str) -> None:
    file = folder / name
    file.write_text(file.read_text() + "\n")
    assert resolve_model(str(folder)).identity != TINY.identity


def test_identity_covers_weights_and_chat_template(folder: Path) -> None:
    """One bit of one weight changes it, and so does a template beside the tokenizer."""
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][-1, -1] = 0.5
    save_file(weights, folder / "model.safetensors")
    changed = resolve_model(str(folder)).identity
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert len({TINY.identity, changed, resolve_model(str(folder)).identity}) == 3


def test_identity_of_a_hub_snapshot_is_its_commit(tmp_path: Path) -> None:
    """The hub id and the path of its snapshot in the cache give the same identity."""
    snapshot = tmp_path / "models--owner--model" / "snapshots" / COMMIT
    shutil.copytree(TINY.path, snapshot)
    assert resolve_model(str(snapshot)).identity == f"owner/model@{COMMIT}"


def test_a_hub_id_is_downloaded_without_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only configurations, tokenizer and safetensors are requested, at the given revision."""
    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(TINY.path)

    monkeypatch.setattr(resolve, "snapshot_download", download)
    assert resolve_model("owner/model", revision="v1").path == TINY.path
    assert (asked["name"], asked["revision"]) == ("owner/model", "v1")
    assert not any(pattern.endswith((".bin", ".py", ".pt", "*")) for pattern in asked["allow_patterns"])


def test_a_hub_id_offline_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the model and the reason."""

    def download(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("no connection\nand more")

    monkeypatch.setattr(resolve, "snapshot_download", download)
    with pytest.raises(ModelLoadError, match=r"^owner/model: .*Hub failed: no connection$"):
        resolve_model("owner/model")


@pytest.mark.parametrize("name", ["tiny-rand", "./nowhere", "/no/where", "~/nowhere", "a/b/c", ""])
def test_a_name_that_is_nothing(name: str) -> None:
    """The error lists the embedded models."""
    with pytest.raises(ModelLoadError, match="tiny-random"):
        resolve_model(name)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "there is no config.json"),
        ("config.json", "{", r"config\.json can't be read"),
        ("config.json", "[]", r"config\.json does not hold a JSON object"),
        ("config.json", "{}", r"architecture None is not supported; supported: Qwen2_5_VL"),
        ("tokenizer.json", None, r"there is no tokenizer\.json"),
        ("tokenizer.json", "{}", r"the tokenizer lacks <\|vision_start\|>, <\|video_pad\|>, .*<\|im_end\|>"),
        ("tokenizer_config.json", "{}", "there is no chat template"),
        ("model.safetensors", None, r"there is no model\.safetensors \(pickled weights are never read\)"),
        ("model.safetensors", "garbage", r"model\.safetensors can't be read"),
        ("model.safetensors.index.json", "{}", r"model\.safetensors\.index\.json is not an index"),
        (
            "model.safetensors.index.json",
            '{"weight_map": {"lm_head.weight": "gone.safetensors"}}',
            r"gone\.safetensors is named in the index, but missing",
        ),
    ],
)
def test_a_damaged_directory_is_refused_by_name(folder: Path, file: str, content: str | None, message: str) -> None:
    """Each error names the directory and the cause."""
    (folder / file).unlink(missing_ok=True)
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ModelLoadError, match=message) as caught:
        resolve_model(str(folder))
    assert str(folder) in str(caught.value)


def test_pickled_weights_do_not_help(folder: Path) -> None:
    """Unpickling the .bin file here would raise KeyboardInterrupt."""

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (exec, ("raise KeyboardInterrupt",))

    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelLoadError, match="never read"):
        resolve_model(str(folder))


def test_another_architecture_is_refused_with_those_supported(folder: Path) -> None:
    """The architecture decides; without one, the model type does."""
    change_json(folder / "config.json", architectures=["LlamaForCausalLM"])
    with pytest.raises(ModelLoadError, match="LlamaForCausalLM is not supported; supported: Qwen2_5_VLForCond"):
        resolve_model(str(folder))
    change_json(folder / "config.json", architectures=None)
    assert resolve_model(str(folder)).family == "qwen2_5_vl"


@pytest.mark.parametrize(
    "missing",
    [
        "model.visual.blocks.1.attn.qkv.weight",
        "model.visual.merger.mlp.2.bias",
        "model.language_model.layers.2.self_attn.k_proj.bias",
        "model.language_model.norm.weight",
        "lm_head.weight",
    ],
)
def test_a_missing_tensor_is_named(folder: Path, missing: str) -> None:
    """The headers of the files suffice, before anything is loaded."""
    rename_tensors(folder, (missing, "unknown"))
    with pytest.raises(ModelLoadError, match=rf"the weights lack {missing}$"):
        resolve_model(str(folder))


def test_many_missing_tensors_are_counted(folder: Path) -> None:
    """The error does not list a thousand names."""
    rename_tensors(folder, ("model.visual.", "elsewhere."))
    with pytest.raises(ModelLoadError, match=r"model\.visual\.patch_embed.* and 22 more"):
        resolve_model(str(folder))


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    """The error comes when the part is loaded."""
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:, :-1].contiguous()
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ModelLoadError, match="output head do not fit: size mismatch for weight"):
        load_model(str(folder), part="language")
    load_model(str(folder), part="vision")


@pytest.mark.parametrize("section", [[1, 1, 1], [16, 24], "x", None])
def test_shares_of_a_head_that_do_not_add_up_are_refused(folder: Path, section: object) -> None:
    """Otherwise the first answer would fail."""
    text = TINY.config()["text_config"]
    change_json(folder / "config.json", text_config={**text, "rope_parameters": {"mrope_section": section}})
    with pytest.raises(ModelLoadError, match="mrope_section"):
        resolve_model(str(folder))


def test_a_windowed_last_block_is_refused(folder: Path) -> None:
    """Its attention scores would not cover the whole frame."""
    vision = {**TINY.config()["vision_config"], "fullatt_block_indexes": [0]}
    change_json(folder / "config.json", vision_config=vision)
    with pytest.raises(ModelLoadError, match="last vision block attends to windows"):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float8"}, "dtype float8 is not one of float32, bfloat16, float16"),
        ({"dtype": torch.int64}, "is not one of"),
        ({"part": "visual"}, "'visual' is not one of all, vision, language"),
        ({"attn_implementation": "nonsense"}, "can't build the model.*nonsense"),
    ],
)
def test_impossible_settings(settings: dict[str, Any], message: str) -> None:
    """These are configuration errors for every model."""
    with pytest.raises(ConfigurationError, match=message):
        load_model(TINY, **settings)


def test_the_tensors_asked_for_are_those_of_the_class() -> None:
    """The list of names is that of transformers' class."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(TINY.path))
    config = TINY.config()
    family = Qwen2_5Family()
    ours = [f"model.visual.{name}" for name in family.vision_tensors(config)]
    ours += [f"model.language_model.{name}" for name in family.language_tensors(config)]
    assert sorted([*ours, "lm_head.weight"]) == sorted(model.state_dict())


def read_by_part(source: ModelSource) -> dict[str, frozenset[str]]:
    """Return the tensors that each part reads, after checking the bytes counted."""
    stored = {}
    for file in source.path.glob("*.safetensors"):
        stored.update(load_file(file))
    parts = {}
    for part in ("vision", "language", "all"):
        model = load_model(source, part=part)
        assert model.bytes_read == sum(stored[name].numel() * stored[name].itemsize for name in model.tensors_read)
        assert len(set(model.tensors_read)) == len(model.tensors_read)
        parts[part] = frozenset(model.tensors_read)
    return parts


@pytest.mark.parametrize("layout", ["single", "sharded", "old", "old and sharded"])
def test_a_part_reads_only_its_tensors(folder: Path, layout: str) -> None:
    """In every layout the parts are disjoint, and together read every tensor."""
    if layout.startswith("old"):
        old_layout(folder)
    if layout.endswith("sharded"):
        shard(folder)
    parts = read_by_part(resolve_model(str(folder)))
    assert all("visual." in name for name in parts["vision"])
    assert not any("visual." in name for name in parts["language"])
    assert parts["vision"] | parts["language"] == parts["all"]
    assert len(parts["all"]) == len(load_file(TINY.path / "model.safetensors"))


def test_tied_embeddings(folder: Path) -> None:
    """No tensor is missing without a head; a stored head is used, as in transformers."""
    change_json(folder / "config.json", tie_word_embeddings=True)
    logits = load_model(str(folder), part="language", dtype="float32").language.decoder.logits(torch.eye(96))
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    expected = stock.lm_head(stock.model.language_model.norm(torch.eye(96)))
    torch.testing.assert_close(logits, expected.detach())
    rename_tensors(folder, ("lm_head.weight", "model.language_model.rotary_emb.inv_freq"))  # as in old checkpoints
    load_model(str(folder), part="language")
    # Older configurations keep it there.
    text = {**TINY.config()["text_config"], "tie_word_embeddings": True}
    change_json(folder / "config.json", tie_word_embeddings=None, text_config=text)
    load_model(str(folder), part="language")


@pytest.mark.parametrize("part", ["vision", "language"])
def test_dtype_is_the_checkpoints_unless_given(folder: Path, part: Any) -> None:
    """A name and torch's own object are equal; without one in the configuration, tensors keep their precision."""
    assert load_model(TINY, part=part).dtype == torch.bfloat16
    assert load_model(TINY, part=part, dtype="float32").dtype == torch.float32
    assert load_model(TINY, part=part, dtype=torch.float16).dtype == torch.float16
    change_json(folder / "config.json", dtype="float32")
    assert load_model(str(folder), part=part).dtype == torch.float32
    change_json(folder / "config.json", dtype=None)
    assert load_model(str(folder), part=part).dtype == torch.bfloat16


def test_the_published_configurations_are_flat(folder: Path) -> None:
    """They keep text settings and `torch_dtype` at the top level, and use the old names of tensors."""
    config = TINY.config()
    text = config.pop("text_config")
    # The older spelling of rotary embeddings works too.
    rope = text.pop("rope_parameters")
    text |= {
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
    }
    flat = {**text, **config, "model_type": "qwen2_5_vl", "torch_dtype": config.pop("dtype"), "dtype": None}
    (folder / "config.json").write_text(json.dumps({key: value for key, value in flat.items() if value is not None}))
    old_layout(folder)
    published, ours = load_model(str(folder)), load_model(TINY)
    assert (published.hidden_size, published.dtype) == (ours.hidden_size, torch.bfloat16)
    frames = np.random.default_rng(0).integers(0, 256, (2, 96, 176, 3), dtype=np.uint8)
    answers = [model.answer(model.compress(model.encode(frames, [0, 1]), None), ["?"]) for model in (published, ours)]
    assert answers[0] == answers[1]
