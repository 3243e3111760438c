"""Models that can't be loaded are refused before any work, with one clear error, in every family."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flashvid.errors import ConfigurationError, ModelLoadError
from flashvid.models import devices, load_model, resolve_model
from flashvid.models.devices import free_bytes, usable_device
from flashvid.models.weights import Checkpoint
from tests.support.embedded_model import TINY
from tests.support.tiny_families import change_config, change_weights, write_llava, write_qwen3


def _write_qwen2_5(folder: Path) -> None:
    shutil.copytree(TINY.path, folder)


def _write_llava_video(folder: Path) -> None:
    write_llava(folder, layout="original", mm_spatial_pool_mode="average", mm_newline_position="grid")


WRITERS: dict[str, Callable[[Path], object]] = {
    "qwen2_5_vl": _write_qwen2_5,
    "qwen3_vl": write_qwen3,
    "llava_onevision": write_llava,
    "llava_video": _write_llava_video,
}
# For each side, a tensor that must exist, and one that must not.
TENSORS = {
    "qwen2_5_vl": {
        "vision": ("model.visual.merger.mlp.2.bias", "model.visual.blocks.0.attn.gate.weight"),
        "language": ("model.language_model.norm.weight", "model.language_model.layers.0.self_attn.q_norm.weight"),
    },
    "qwen3_vl": {
        "vision": ("model.visual.merger.norm.bias", "model.visual.blocks.0.attn.gate.weight"),
        "language": ("model.language_model.norm.weight", "model.language_model.layers.9.mlp.up_proj.weight"),
    },
    "llava_onevision": {
        "vision": ("multi_modal_projector.linear_2.bias", "multi_modal_projector.linear_3.bias"),
        "language": ("language_model.model.norm.weight", "language_model.model.layers.9.mlp.up_proj.weight"),
    },
    "llava_video": {
        "vision": ("model.mm_projector.2.bias", "model.mm_projector.4.bias"),
        "language": ("model.norm.weight", "model.layers.9.mlp.up_proj.weight"),
    },
}


@pytest.fixture(params=WRITERS)
def family(request: pytest.FixtureRequest) -> str:
    """Return the name of each family in turn."""
    return str(request.param)


@pytest.fixture
def folder(family: str, tmp_path: Path) -> Path:
    """Write a small model of the family, for tests to damage."""
    WRITERS[family](tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail if a weight is read."""
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("a weight was read"))


def change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrite tokenizer.json after a function changes its content."""
    content = json.loads((folder / "tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))


@pytest.mark.parametrize("part", ["vision", "language"])
@pytest.mark.usefixtures("unread")
def test_a_missing_tensor_is_named(family: str, folder: Path, part: str) -> None:
    """The error comes when the model is resolved, for tensors of either side."""
    missing = TENSORS[family][part][0]
    change_weights(folder, lambda weights: weights.pop(missing))
    with pytest.raises(ModelLoadError, match=f"the weights lack {missing}$"):
        resolve_model(str(folder))


@pytest.mark.parametrize("part", ["vision", "language"])
@pytest.mark.usefixtures("unread")
def test_an_unexpected_tensor_is_named(family: str, folder: Path, part: Any) -> None:
    """An unexpected tensor means another architecture."""
    extra = TENSORS[family][part][1]
    change_weights(folder, lambda weights: weights.update({extra: torch.ones(3)}))
    with pytest.raises(ModelLoadError, match="there are unexpected tensors: ") as caught:
        load_model(str(folder), part=part, device="cpu")
    assert extra.endswith(caught.value.message.split(": ")[-1])


@pytest.mark.parametrize("extra", ["extra.lora_A.weight", "lm_head.lora_A.weight", "audio_tower.conv.bias"])
@pytest.mark.usefixtures("unread")
def test_a_tensor_of_no_part_is_named(folder: Path, extra: str) -> None:
    """Such a tensor, for instance of an adapter that was not merged, must not be ignored silently."""
    change_weights(folder, lambda weights: weights.update({extra: torch.ones(3)}))
    with pytest.raises(ModelLoadError, match=f"there are unexpected tensors: {extra}"):
        resolve_model(str(folder))


@pytest.mark.parametrize("value", ["x", None, [], {}, -1, 2.5])
def test_whatever_is_wrong_with_a_configuration_is_one_error(folder: Path, value: object) -> None:
    """Values of the wrong type and impossible numbers all raise ModelLoadError."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    nested = [config[name] for name in ("vision_config", "text_config") if isinstance(config.get(name), dict)]
    for part in [config, *nested]:
        for key in ("hidden_size", "num_attention_heads", "num_hidden_layers", "depth", "rope_theta", "architectures"):
            if key in part:
                before = part[key]
                part[key] = value
                (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
                # Some of these values equal a default or have no effect.
                with suppress(ModelLoadError, ConfigurationError):
                    load_model(str(folder), device="cpu")
                part[key] = before


@pytest.mark.parametrize("ends", [[], "<|im_end|>", -1, 10**9, [3, None], {}])
def test_an_end_that_no_answer_could_reach_is_refused(folder: Path, ends: object) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}), encoding="utf-8")
    with pytest.raises(ModelLoadError, match="does not name ids of the tokenizer"):
        load_model(str(folder), part="language", device="cpu")


def test_weights_of_no_one_precision_are_refused(folder: Path) -> None:
    """Quantised weights must not be read as weights, and products need one precision."""
    name = next(name for name in load_file(folder / "model.safetensors") if name.endswith("q_proj.weight"))
    change_config(folder, dtype=None, torch_dtype=None)
    change_weights(folder, lambda weights: weights.update({name: weights[name].double()}))
    with pytest.raises(ModelLoadError, match="set dtype"):
        load_model(str(folder), device="cpu")
    change_weights(folder, lambda weights: weights.update({name: weights[name].to(torch.int8)}))
    with pytest.raises(ModelLoadError, match="quantised weights are not supported"):
        load_model(str(folder), device="cpu", dtype="float32")


def test_a_revision_is_of_a_hub_id(folder: Path) -> None:
    with pytest.raises(ModelLoadError, match="revision main is given for a directory"):
        resolve_model(str(folder), "main")


@pytest.mark.parametrize("bounds", [{"min_pixels": 0}, {"max_pixels": -4}])
def test_bounds_of_no_area_are_refused(folder: Path, bounds: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError, match="must be at least 1"):
        load_model(str(folder), part="vision", device="cpu", **bounds)  # type: ignore[arg-type]


def test_threads_encode_as_one_does(folder: Path) -> None:
    """The input of the last block is captured during the run, and must be that of the thread's own clip."""
    model = load_model(str(folder), part="vision", dtype="float32", device="cpu")
    clips = [np.random.default_rng(seed).integers(0, 256, (8, 60 + 20 * seed, 80, 3), np.uint8) for seed in range(2)]
    times = np.arange(8.0)
    alone = [model.encode(clip, times) for clip in clips]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(2) as threads:
            found = list(threads.map(lambda clip: model.encode(clip, times), clips * 6))
    finally:
        sys.setswitchinterval(interval)
    for index, visual in enumerate(found):
        assert torch.equal(visual.scores, alone[index % 2].scores)


@pytest.mark.usefixtures("unread")
def test_another_architecture_is_refused(folder: Path) -> None:
    """The error lists the supported architectures."""
    change_config(folder, architectures=["LlamaForCausalLM"])
    with pytest.raises(ModelLoadError, match="LlamaForCausalLM is not supported; supported: Qwen2_5_VL"):
        load_model(str(folder))


@pytest.mark.usefixtures("unread")
def test_a_tokenizer_without_the_special_tokens_is_refused(folder: Path) -> None:
    """Special tokens of a prompt would otherwise be split into plain text."""
    change_tokenizer(folder, lambda content: content.update(added_tokens=content["added_tokens"][:1]))
    with pytest.raises(ModelLoadError, match=r"the tokenizer lacks .*<\|im_start\|>, <\|im_end\|>$"):
        load_model(str(folder))


def test_a_tokenizer_that_is_damaged_is_refused(folder: Path) -> None:
    """The tokenizers library raises plain Exception."""
    change_tokenizer(folder, lambda content: content.update(model={"type": "BPE", "vocab": 3}))
    with pytest.raises(ModelLoadError, match="the tokenizer can't be loaded: "):
        load_model(str(folder), part="language", device="cpu")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "consolidated.00.pth"])
def test_pickled_weights_alone_are_refused(folder: Path, name: str) -> None:
    """The error names the file and what to do."""
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"not to be opened")
    with pytest.raises(
        ModelLoadError, match=f"{name} is pickled, and pickled weights are never read: save the model with safetensors"
    ):
        load_model(str(folder))


def test_code_in_a_models_directory_is_never_run(folder: Path) -> None:
    """Configurations may point to code, which would write a file here."""
    trace = folder / "trace"
    (folder / "trap.py").write_text(f"open({str(trace)!r}, 'w')\nclass Trap: pass\n")
    change_config(folder, auto_map={"AutoConfig": "trap.Trap", "AutoModel": "trap.Trap"})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["trap.Trap", "trap.Trap"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    try:
        load_model(str(folder), device="cpu")
    except ModelLoadError as error:
        assert "can't be loaded" in error.message  # Loading may also succeed without the code.
    assert not trace.exists()


@pytest.mark.parametrize("part", ["vision", "language", "all"])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_weights_that_do_not_fit_the_device_are_refused(
    family: str, folder: Path, part: Any, dtype: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check comes before weights are read; one missing byte is enough."""
    loaded = load_model(str(folder), part=part, dtype=dtype, device="cpu")
    stored = load_file(folder / "model.safetensors")
    needed = sum(stored[name].numel() * loaded.dtype.itemsize for name in loaded.tensors_read)
    monkeypatch.setattr(devices, "free_bytes", lambda _: needed)
    assert load_model(str(folder), part=part, dtype=dtype, device="cpu").family == family
    monkeypatch.setattr(devices, "free_bytes", lambda _: needed - 1)
    monkeypatch.setattr(Checkpoint, "read", lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(ModelLoadError, match=rf"the weights take {needed / 1e9:.2f} GB and cpu has .* GB free"):
        load_model(str(folder), part=part, dtype=dtype, device="cpu")


def test_free_memory_counts_what_torch_has_in_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only CUDA reports free memory."""
    assert free_bytes(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    assert free_bytes(torch.device("cuda:0")) == 1200


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the device, before torch fails in the middle of loading."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert usable_device("cuda:1") == torch.device("cuda:1")
    for device, message in (
        ("cuda:2", "'cuda:2' is not here: torch finds 2 GPUs"),
        ("gpu", "is unknown to torch"),
        ("xpu", "'xpu' can't be used here"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            load_model(TINY, device=device)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert usable_device(None) == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_whose_driver_is_too_old_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch counts such a GPU, but can't use it."""

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).\nPlease update it.")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", too_old)
    with pytest.raises(ConfigurationError, match=r"torch finds 0 GPUs \(The NVIDIA .* too old \(.*12020\)\.\)$"):
        load_model(TINY, device=device)
