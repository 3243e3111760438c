"""Build the embedded `tiny-random` model: the real Qwen2.5-VL class, small, with random weights.

    python -m jobs.lab.tiny_model.tiny_random DIR

Same bytes every time. Its answers are meaningless syllables, so that they are not mistaken for answers.
"""

import argparse
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import pre_tokenizers
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from jobs.lab.tiny_model.model_files import (
    SPECIAL_TOKENS,
    byte_level_tokenizer,
    chat_template,
    qwen_config,
    write_model,
    write_tokenizer,
)

_SEED = 20261123
_HIDDEN_SIZE = 96
_SYLLABLES = tuple(f"Ġ{onset}{vowel}{coda}" for onset, vowel, coda in product("bdfgklmnprstvz", "aeiou", "lnr"))
# After one of these the turn tends to end, so that answers differ in length and some are cut by max_new_tokens.
_LAST_SYLLABLE_ENDS = "un"


def build(folder: Path) -> None:
    """Write configuration, weights, tokenizer and chat template into a folder."""
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *_SYLLABLES]
    ids = {token: index for index, token in enumerate([*vocabulary, *SPECIAL_TOKENS])}
    text = {
        "hidden_size": _HIDDEN_SIZE,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]},
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 4,
        "spatial_patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 64,
        "fullatt_block_indexes": [1],
        "tokens_per_second": 2,
    }
    config = qwen_config(ids, tied=False, text=text, vision=vision)
    write_model(folder, config, _weights(config, vocabulary, ids["<|im_end|>"]), (16 * 16 * 16, 80 * 16 * 16))
    plain = {token: ids[token] for token in vocabulary}
    write_tokenizer(folder, byte_level_tokenizer(plain), chat_template("{{ part.text }}"))


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
    return weights


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder to write")
    build(parser.parse_args().folder)
