"""What the embedded models share: special tokens, configuration, tokenizer, and the files of a model directory."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import Tensor

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


def chat_template(text: str) -> str:
    """Return a chat template that writes the text of a message with the Jinja source `text`."""
    return (
        "{% for message in messages %}<|im_start|>{{ message.role }}\n"
        "{% for part in message.content %}"
        "{% if part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}" + text + "{% endif %}"
        "{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def qwen_config(ids: Mapping[str, int], *, tied: bool, text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    """Return the content of config.json for a small Qwen2.5-VL.

    Args:
        ids: Id of every token, the special ones included.
        tied: Whether the output head is the word embedding.
        text: Settings of the language side.
        vision: Settings of the vision side.
    """
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "dtype": "bfloat16",
        "tie_word_embeddings": tied,
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "text_config": {
            "model_type": "qwen2_5_vl_text",
            "vocab_size": len(ids),
            "num_attention_heads": 4,
            "max_position_embeddings": 32768,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            **text,
        },
        "vision_config": {
            "model_type": "qwen2_5_vl_vision",
            "out_hidden_size": text["hidden_size"],
            "patch_size": vision["spatial_patch_size"],
            **vision,
        },
    }


def byte_level_tokenizer(plain: Mapping[str, int], **options: bool) -> Tokenizer:
    """Return a byte-level BPE without merges, which spells text outside its vocabulary in bytes.

    Args:
        plain: Ids of all tokens but the special ones, which follow them.
        options: Options of `tokenizers.models.BPE`.
    """
    tokenizer = Tokenizer(BPE(vocab=dict(plain), merges=[], **options))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer, template: str) -> None:
    """Write tokenizer.json and tokenizer_config.json, which holds the chat template, into an existing folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    _write_json(folder / "tokenizer_config.json", settings)


def write_model(folder: Path, config: dict[str, Any], weights: Mapping[str, Tensor], pixels: tuple[int, int]) -> None:
    """Write the other files of a model directory, which is created if it is missing.

    Args:
        folder: The directory.
        config: Content of config.json.
        weights: Written in bfloat16.
        pixels: Fewest and most pixels of a frame.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config)
    ends = [config["text_config"][name] for name in ("eos_token_id", "bos_token_id")]
    _write_json(folder / "generation_config.json", {"eos_token_id": ends})
    _write_json(folder / "preprocessor_config.json", {"min_pixels": pixels[0], "max_pixels": pixels[1]})
    stored = {name: tensor.detach().bfloat16().contiguous() for name, tensor in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
