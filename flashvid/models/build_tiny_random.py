"""Build the embedded `tiny-random` model: the real Qwen2.5-VL class, small, with random weights.

    python -m flashvid.models.build_tiny_random DIR

Same bytes every time. Its answers are made of syllables that mean nothing, so that nobody takes them for answers.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

_SEED = 20261123
_SPECIAL_TOKENS = (
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
    special = {token: len(vocabulary) + index for index, token in enumerate(_SPECIAL_TOKENS)}
    _write_tokenizer(folder, vocabulary)
    config = _config(len(vocabulary) + len(special), special)
    torch.manual_seed(_SEED)
    model = Qwen2_5_VLForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(_SEED)
    weights = {name: _draw(name, tensor, generator) for name, tensor in sorted(model.state_dict().items())}
    # Bytes would print as gibberish; only syllables and the end of the turn can win the argmax.
    speakable = torch.zeros(config.text_config.vocab_size, 1, dtype=torch.bfloat16)
    speakable[len(vocabulary) - len(_SYLLABLES) : len(vocabulary)] = 1
    weights["lm_head.weight"] = weights["lm_head.weight"] * speakable
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", {**config.to_dict(), "architectures": [type(model).__name__]})
    _write_json(
        folder / "generation_config.json", {"eos_token_id": [special["<|im_end|>"], special["<|endoftext|>"]]}
    )
    _write_json(
        folder / "preprocessor_config.json", {"min_pixels": 16 * 16 * 16, "max_pixels": 80 * 16 * 16, "patch_size": 8}
    )


def _config(vocab_size: int, special: dict[str, int]) -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 4, 4]},
            "tie_word_embeddings": False,
            "bos_token_id": special["<|endoftext|>"],
            "eos_token_id": special["<|im_end|>"],
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "out_hidden_size": 96,
            "patch_size": 8,
            "spatial_patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 64,
            "fullatt_block_indexes": [1],
            "tokens_per_second": 2,
        },
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        dtype="bfloat16",
    )


def _draw(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Weights wide enough for different videos and questions to give different answers."""
    if "norm" in name or "ln_q" in name:
        return torch.ones_like(tensor, dtype=torch.bfloat16)
    fan_in = tensor[0].numel() if tensor.ndim > 1 else 1
    scale = 1.0 if "embed_tokens" in name or "lm_head" in name else (2.0 / fan_in) ** 0.5
    scale = 0.02 if tensor.ndim == 1 else scale
    return (torch.randn(tensor.shape, generator=generator) * scale).bfloat16()


def _write_tokenizer(folder: Path, vocabulary: list[str]) -> None:
    """Byte-level BPE without merges: syllables are only ever spoken, any input is spelled in bytes."""
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in _SPECIAL_TOKENS])
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
