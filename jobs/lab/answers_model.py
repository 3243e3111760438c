"""The model and the clip of `bench answers`: a LLaVA-OneVision of random weights, sized by what its parts cost."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

from flashvid.models import resolve_model

_SEED = 20261123
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }} "
    "{% for part in message.content %}{% if part.type == 'video' %}<video>\n{% else %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class ModelSize:
    """The sizes that a LLaVA-OneVision's cost depends on: a tower like SigLIP's, then a decoder like Qwen2's.

    Attributes:
        vision_width: Of the tower's states; its heads are `vision_heads`.
        vision_mlp: Width inside its feed-forward layers.
        vision_layers: Blocks that are used.
        vision_heads: Attention heads of a block.
        patches: Along a frame's side; pooling makes half as many tokens, rounded up.
        width: Of the decoder's states and of a visual token.
        mlp: Width inside its feed-forward layers.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key-value heads.
        vocabulary: Rows of the output head.
        value_bytes: Of a weight, an activation and a stored value.
    """

    vision_width: int
    vision_mlp: int
    vision_layers: int
    vision_heads: int
    patches: int
    width: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    value_bytes: int

    @property
    def frame_tokens(self) -> int:
        """Visual tokens of a frame."""
        return math.ceil(self.patches / 2) ** 2

    @property
    def kv_bytes(self) -> int:
        """Of a token's key and value in one decoder layer."""
        return 2 * self.kv_heads * self.width // self.heads * self.value_bytes


# FLOPs of vision and of the prefill of all tokens are as 785 to 1221 at 32 x 196 tokens (the paper, LLaVA-OneVision).
BENCH = ModelSize(192, 576, 3, 4, 27, 256, 1536, 4, 4, 2, 480, 4)
# lmms-lab/llava-onevision-qwen2-7b-ov in bfloat16; the tower's last block is not used.
LLAVA_7B = ModelSize(1152, 4304, 26, 16, 27, 3584, 18944, 28, 28, 4, 152064, 2)


def write_model(folder: Path, size: ModelSize) -> LlavaOnevisionForConditionalGeneration:
    """Write a random model as a directory that `load_model` reads; return the stock model.

    Args:
        folder: Created.
        size: Of the model; its vocabulary must have room for the embedded tokenizer's 480 entries.
    """
    config = LlavaOnevisionConfig(
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": size.vision_width,
            "intermediate_size": size.vision_mlp,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": size.vision_heads,
            "image_size": 2 * size.patches,
            "patch_size": 2,
            "vision_use_head": False,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": size.vocabulary,
            "hidden_size": size.width,
            "intermediate_size": size.mlp,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.kv_heads,
            "max_position_embeddings": 32768,
            "tie_word_embeddings": False,
        },
        video_token_index=size.vocabulary - 1,
    )
    kind: Any = LlavaOnevisionForConditionalGeneration
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        stock = kind(config)
        for parameter in stock.parameters():
            if parameter.ndim > 1:
                # This deviation keeps a state's size from layer to layer, so that answers differ between questions.
                torch.nn.init.normal_(parameter, std=1.4 / math.sqrt(math.prod(parameter.shape[1:])))
    stock.save_pretrained(folder)
    side = 2 * size.patches
    processor = {"size": {"height": side, "width": side}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    for name in _TOKENIZER:
        shutil.copyfile(resolve_model("tiny-random").path / name, folder / name)
    (folder / "chat_template.jinja").write_text(_TEMPLATE, encoding="utf-8")
    return stock.train(False)  # type: ignore[no-any-return]
