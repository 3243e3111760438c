"""Build the embedded `tiny-random` model: the real Qwen2.5-VL class, small, with random weights.

    python -m jobs.lab.tiny_model.tiny_random DIR

Same bytes every time. Its answers are meaningless syllables, so that they are not mistaken for answers.
"""

from __future__ import annotations

import argparse
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

_SEED = 20261123
_HIDDEN_SIZE = 96
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_SYLLABLES = tuple(f"Ġ{onset}{vowel}{coda}" for onset, vowel, coda in product("bdfgklmnprstvz", "aeiou", "lnr"))
# After one of these the turn tends to end, so that answers differ in length and some are cut by max_new_tokens.
_LAST_SYLLABLE_ENDS = "un"
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}"
    "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build(folder: Path) -> None:
    """Write configuration, weights, tokenizer and chat template into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *_SYLLABLES]
    special = {token: len(vocabulary) + index for index, token in enumerate(SPECIAL_TOKENS)}
    config = _config(len(vocabulary) + len(special), special)
    _write_tokenizer(folder, vocabulary)
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", {"eos_token_id": [special["<|im_end|>"], special["<|endoftext|>"]]})
    _write_json(folder / "preprocessor_config.json", {"min_pixels": 16 * 16 * 16, "max_pixels": 80 * 16 * 16})
    weights = _weights(config, vocabulary, special["<|im_end|>"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _config(vocab_size: int, special: dict[str, int]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": False,
        "image_token_id": special["<|image_pad|>"],
        "video_token_id": special["<|video_pad|>"],
        "vision_start_token_id": special["<|vision_start|>"],
        "vision_end_token_id": special["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "vocab_size": vocab_size,
            "hidden_size": _HIDDEN_SIZE,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]},
            "bos_token_id": special["<|endoftext|>"],
            "eos_token_id": special["<|im_end|>"],
        },
        "vision_config": {
            "model_type": "qwen2_5_vl_vision",
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": _HIDDEN_SIZE,
            "patch_size": 8,
            "spatial_patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 64,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
    }


def _weights(config: dict[str, Any], vocabulary: list[str], end: int) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(config)).state_dict()
    bits = np.random.PCG64(_SEED)
    weights = {name: _draw(name, [*shapes[name].shape], bits) for name in sorted(shapes)}
    # Bytes would print as gibberish: only syllables and the end of the turn can win the argmax.
    first_syllable = len(vocabulary) - len(_SYLLABLES)
    head, embedding = weights["lm_head.weight"], weights["model.language_model.embed_tokens.weight"]
    head[:first_syllable] = 0
    head[len(vocabulary) :] = 0
    direction = _draw("direction", [_HIDDEN_SIZE], bits, scale=1.0)
    last = [
        index for index, token in enumerate(vocabulary) if token in _SYLLABLES and token.endswith(_LAST_SYLLABLE_ENDS)
    ]
    embedding[last] += 2 * direction
    head[end] = direction
    return {name: tensor.bfloat16() for name, tensor in weights.items()}


def _draw(name: str, shape: list[int], bits: np.random.PCG64, scale: float | None = None) -> Tensor:
    """Draw weights wide enough for different videos and questions to give different answers."""
    if "norm" in name or "ln_q" in name:
        return torch.ones(shape)
    if scale is None:
        spread = "embed_tokens" in name or "lm_head" in name
        fan_in = math.prod(shape[1:])
        scale = 0.02 if len(shape) == 1 else 1.0 if spread else math.sqrt(2.0 / fan_in)
        # Sharp attention: with even attention, all videos and questions would look much the same.
        scale *= 2.0 if "q_proj" in name else 1.0
    # Uniform of a given deviation, from raw bits: every step is exact, so every machine draws the same. The normal
    # distributions of torch and numpy differ in last digits between processors and versions.
    raw = np.asarray(bits.random_raw(math.prod(shape)), dtype=np.uint64) >> np.uint64(40)
    uniform = (raw.astype(np.float64) / 2**23 - 1.0) * (math.sqrt(3.0) * scale)
    return torch.from_numpy(uniform.reshape(shape)).float()


def _write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    """Byte-level BPE without merges: the model answers in syllables, and any input is spelled in bytes."""
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "chat_template": _TEMPLATE,
        },
    )


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    build(parser.parse_args().folder)
