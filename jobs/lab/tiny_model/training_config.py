"""The configuration of the `tiny` model, and its directory."""

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from jobs.lab.tiny_model.model_files import qwen_config, write_model, write_tokenizer
from jobs.lab.tiny_model.scenes import FRAME_SIZE, FRAMES_PER_STEP
from jobs.lab.tiny_model.tokenizer import CHAT_TEMPLATE, build_tokenizer, build_vocabulary

HIDDEN_SIZE = 128
MERGE_SIZE = 2
PATCH_SIZE = 8
TOKENS_PER_SECOND = 2
_VISION_DEPTH = 3


def model_config() -> dict[str, Any]:
    """Return the content of config.json."""
    text = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        # Nine sections, t h w three times over: time, height and width each get high and low frequencies. Three
        # contiguous ones would leave only low frequencies to height and width at a head size of 32.
        "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 2, 2, 2, 2, 2, 2, 1, 1]},
    }
    vision = {
        "depth": _VISION_DEPTH,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_heads": 3,
        "spatial_patch_size": PATCH_SIZE,
        "spatial_merge_size": MERGE_SIZE,
        "temporal_patch_size": FRAMES_PER_STEP,
        # Every block sees the whole frame.
        "window_size": FRAME_SIZE,
        "fullatt_block_indexes": list(range(_VISION_DEPTH)),
        "tokens_per_second": TOKENS_PER_SECOND,
    }
    return qwen_config(build_vocabulary(), tied=True, text=text, vision=vision)


def build_model() -> Qwen2_5_VLForConditionalGeneration:
    """Return the model in float32 with random weights from torch's own generator."""
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict({**model_config(), "dtype": "float32"}))


def write_tiny(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write a model directory: configuration, tokenizer, chat template, and the weights in bfloat16."""
    # Frames of other sizes are resized to this area; frames of the generated videos keep their size.
    write_model(folder, model_config(), weights, (FRAME_SIZE**2, FRAME_SIZE**2))
    write_tokenizer(folder, build_tokenizer(), CHAT_TEMPLATE)
