"""Small random models of the LLaVA and Qwen3-VL families as directories, written with transformers' own classes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from flashvid.models import resolve_model

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
_LLAVA_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} "
    "{% for part in message.content %}{% if part.type == 'video' %}<video>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT: dict[str, Any] = {
    "vocab_size": 480,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 30,
    "patch_size": 2,
    "vision_use_head": False,
}
# The names of a checkpoint from the hub, and what they are in other layouts.
LAYOUTS: dict[str, tuple[tuple[str, str], ...]] = {
    "hub": (("vision_tower.", "vision_tower.vision_model."),),
    "transformers 5": (),
    "transformers 4.5": (
        ("vision_tower.", "model.vision_tower.vision_model."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
        ("image_newline", "model.image_newline"),
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
    ),
    "original": (
        ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
        ("multi_modal_projector.linear_1", "model.mm_projector.0"),
        ("multi_modal_projector.linear_2", "model.mm_projector.2"),
        ("image_newline", "model.image_newline"),
        ("language_model.model.", "model."),
        ("language_model.lm_head.", "lm_head."),
    ),
}


def write_llava(
    folder: Path, *, layout: str = "transformers 5", **changes: Any
) -> LlavaOnevisionForConditionalGeneration:
    """Write a random LLaVA, the same weights in any layout; the stock model is returned.

    Args:
        folder: Where to.
        layout: One of `LAYOUTS`.
        changes: Keys of the configuration to set.
    """
    config = LlavaOnevisionConfig(
        vision_config=SIGLIP, text_config={"model_type": "qwen2", **TEXT}, video_token_index=479
    )
    stock = _random(LlavaOnevisionForConditionalGeneration, config)
    stock.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    for old, new in LAYOUTS[layout]:
        weights = {
            new + name.removeprefix(old) if name.startswith(old) else name: part for name, part in weights.items()
        }
    save_file(weights, folder / "model.safetensors")
    if layout == "original":
        # One layer more than is stored: it was deleted before the training.
        vision = {**SIGLIP, "num_hidden_layers": SIGLIP["num_hidden_layers"] + 1}
        written = {"architectures": ["LlavaQwenForCausalLM"], "model_type": "llava", **TEXT, "vision_config": vision}
        _write(folder / "config.json", written)
    else:
        processor = {"size": {"height": 30, "width": 30}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
        _write(folder / "preprocessor_config.json", processor)
    _add_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(_LLAVA_TEMPLATE)
    change_config(folder, **changes)
    return stock


def write_qwen3(folder: Path, *, tied: bool = False) -> Qwen3VLForConditionalGeneration:
    """Write a random Qwen3-VL; the stock model is returned."""
    vocabulary = json.loads((resolve_model("tiny-random").path / "tokenizer.json").read_text())["added_tokens"]
    ids = {token["content"]: token["id"] for token in vocabulary}
    config = Qwen3VLConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_heads": 2,
            "out_hidden_size": TEXT["hidden_size"],
            "patch_size": 8,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={
            **TEXT,
            "head_dim": 12,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 2, 2]},
        },
        tie_word_embeddings=tied,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    stock = _random(Qwen3VLForConditionalGeneration, config)
    stock.save_pretrained(folder)
    _write(
        folder / "video_preprocessor_config.json", {"size": {"shortest_edge": 256, "longest_edge": 40 * 16 * 16 * 4}}
    )
    _add_tokenizer(folder)
    return stock


def change_config(folder: Path, **changes: Any) -> None:
    """Set keys of config.json; None removes one."""
    content = {**json.loads((folder / "config.json").read_text()), **changes}
    _write(folder / "config.json", {key: value for key, value in content.items() if value is not None})


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Write the weights again after a function has changed them."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


class PeakMemory(TorchDispatchMode):
    """Bytes of all storages that operations return and that live at once, at most.

    Attributes:
        peak: Largest sum so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self._alive = WeakIdKeyDictionary()
        self.peak = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and look at what is alive behind it."""
        result = operation(*args, **(kwargs or {}))
        for part in tree_iter(result):
            if isinstance(part, torch.Tensor):
                storage = part.untyped_storage()
                self._alive[storage] = storage.nbytes()
        self.peak = max(self.peak, sum(self._alive.values()))
        return result


def _random(kind: Any, config: Any) -> Any:
    """A model with weights wide enough for attention to be uneven; torch's own generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = kind(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.25)
    return model.train(False)


def _add_tokenizer(folder: Path) -> None:
    for name in _TOKENIZER:
        shutil.copyfile(resolve_model("tiny-random").path / name, folder / name)


def _write(file: Path, content: object) -> None:
    file.write_text(json.dumps(content))
