"""The configuration of the `tiny` model, and its directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from jobs.lab.tiny_model.scenes import FRAME_SIZE, FRAMES_PER_STEP
from jobs.lab.tiny_model.tokenizer import build_vocabulary, write_tokenizer

HIDDEN_SIZE = 128
MERGE_SIZE = 2
PATCH_SIZE = 8
TOKENS_PER_SECOND = 2
_VISION_DEPTH = 3


def model_config() -> dict[str, Any]:
    """Return the content of config.json."""
    vocabulary = build_vocabulary()
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "image_token_id": vocabulary["<|image_pad|>"],
        "video_token_id": vocabulary["<|video_pad|>"],
        "vision_start_token_id": vocabulary["<|vision_start|>"],
        "vision_end_token_id": vocabulary["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "vocab_size": len(vocabulary),
            "hidden_size": HIDDEN_SIZE,
            "intermediate_size": 384,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": True,
            # Nine sections, t h w three times over: time, height and width each get high and low frequencies. Three
            # contiguous ones would leave only low frequencies to height and width at a head size of 32.
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 100.0,
                "mrope_section": [2, 2, 2, 2, 2, 2, 2, 1, 1],
            },
            "bos_token_id": vocabulary["<|endoftext|>"],
            "eos_token_id": vocabulary["<|im_end|>"],
        },
        "vision_config": {
            "model_type": "qwen2_5_vl_vision",
            "depth": _VISION_DEPTH,
            "hidden_size": 96,
            "intermediate_size": 256,
            "num_heads": 3,
            "out_hidden_size": HIDDEN_SIZE,
            "patch_size": PATCH_SIZE,
            "spatial_patch_size": PATCH_SIZE,
            "spatial_merge_size": MERGE_SIZE,
            "temporal_patch_size": FRAMES_PER_STEP,
            # Every block sees the whole frame.
            "window_size": FRAME_SIZE,
            "fullatt_block_indexes": list(range(_VISION_DEPTH)),
            "tokens_per_second": TOKENS_PER_SECOND,
        },
    }


def build_model() -> Qwen2_5_VLForConditionalGeneration:
    """Return the model in float32 with random weights from torch's own generator."""
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict({**model_config(), "dtype": "float32"}))


def write_model(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write a model directory: configuration, tokenizer, chat template, and the weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    config = model_config()
    write_tokenizer(folder)
    _write_json(folder / "config.json", config)
    ends = [config["text_config"]["eos_token_id"], config["text_config"]["bos_token_id"]]
    _write_json(folder / "generation_config.json", {"eos_token_id": ends})
    # Frames of other sizes are resized to this area; frames of the generated videos keep their size.
    _write_json(folder / "preprocessor_config.json", {"min_pixels": FRAME_SIZE**2, "max_pixels": FRAME_SIZE**2})
    stored = {name: tensor.detach().bfloat16().contiguous() for name, tensor in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
