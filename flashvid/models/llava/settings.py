"""What a LLaVA configuration says, whichever of the two ways it is written in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from flashvid.models.llava.layouts import HUGGING_FACE, ORIGINAL, Layout, find_layout

Pooling = Literal["bilinear", "average"]
Newlines = Literal["one_token", "frame", "no_token"]

ORIGINAL_ARCHITECTURE = "LlavaQwenForCausalLM"
HUGGING_FACE_ARCHITECTURE = "LlavaOnevisionForConditionalGeneration"
# The original layout names its tower and leaves its shape to the code: google/siglip-so400m-patch14-384.
_SO400M: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
# Transformers leaves out what has its class's default value.
_QWEN2: dict[str, Any] = {"hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 151936}
# What the original layout mixes with everything else at the top.
_TEXT_KEYS = (
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "use_sliding_window",
    "vocab_size",
)


@dataclass(frozen=True)
class LlavaSettings:
    """The parts of a configuration that decide what is computed.

    Attributes:
        vision: Fields of a SigLIP configuration; `num_hidden_layers` counts the layers that are used.
        stored_layers: Layers of the tower, the unused among them.
        text: Fields of a Qwen2 configuration.
        pooling: How 2 x 2 patches become a token.
        newlines: Where the newline's embedding stands among the visual tokens.
        tied: Whether the output head is the embedding.
        default_layout: Of the checkpoint's names, if they do not tell.
    """

    vision: Mapping[str, Any]
    stored_layers: int
    text: Mapping[str, Any]
    pooling: Pooling
    newlines: Newlines
    tied: bool
    default_layout: Layout

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """Read config.json's content.

        Raises:
            ValueError: it describes nothing that this library runs; says what, as a sentence.
        """
        parsed = cls._hugging_face(config) if is_hugging_face(config) else cls._original(config)
        for part, keys in (
            (parsed.text, ("hidden_size", "num_hidden_layers", "vocab_size")),
            (parsed.vision, ("hidden_size", "num_hidden_layers", "image_size", "patch_size")),
        ):
            if missing := [key for key in keys if not isinstance(part.get(key), int)]:
                side = "language" if part is parsed.text else "vision"
                raise ValueError(f"config.json gives no {', '.join(missing)} of the {side} side")
        return parsed

    @classmethod
    def _original(cls, config: Mapping[str, Any]) -> Self:
        if config.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu":
            raise ValueError(f"mm_projector_type {config['mm_projector_type']} is not supported, only mlp2x_gelu")
        if config.get("mm_spatial_pool_stride", 2) != 2:
            raise ValueError(f"mm_spatial_pool_stride {config['mm_spatial_pool_stride']} is not supported, only 2")
        if config.get("add_faster_video"):
            raise ValueError("add_faster_video is not supported: its slow and fast frames are not compressed alike")
        given = config.get("vision_config")
        tower = str(config.get("mm_vision_tower", "siglip-so400m-patch14-384"))
        if given is None and not tower.endswith("siglip-so400m-patch14-384"):
            raise ValueError(f"mm_vision_tower {tower} is not supported, only google/siglip-so400m-patch14-384")
        vision = {**_SO400M, **(given or {})}
        # The published models were trained without the tower's last layer.
        depth = vision["num_hidden_layers"]
        vision["num_hidden_layers"] = depth - 1
        text = {key: config[key] for key in _TEXT_KEYS if key in config}
        merge_type = str(config.get("mm_patch_merge_type", "spatial_unpad"))
        newlines = config.get("mm_newline_position", "one_token") if merge_type.startswith("spatial") else "no_token"
        tied = bool(config.get("tie_word_embeddings"))
        return cls(vision, depth, text, pooling_of(config), _newlines(newlines), tied, ORIGINAL)

    @classmethod
    def _hugging_face(cls, config: Mapping[str, Any]) -> Self:
        vision, text = config.get("vision_config"), config.get("text_config")
        if not isinstance(vision, Mapping) or not isinstance(text, Mapping):
            raise ValueError("config.json lacks vision_config or text_config")
        if config.get("vision_feature_select_strategy", "full") != "full":
            raise ValueError("vision_feature_select_strategy must be full: SigLIP has no class token to drop")
        layer = config.get("vision_feature_layer", -1)
        depth = vision.get("num_hidden_layers", 26)
        if not isinstance(layer, int) or not isinstance(depth, int):
            raise ValueError("vision_feature_layer must be one number")
        # Transformers counts hidden states, of which there is one more than layers.
        used = layer if layer >= 0 else depth + 1 + layer
        if not 1 <= used <= depth:
            raise ValueError(f"vision_feature_layer {layer} is not one of {depth} layers")
        tied = bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings"))
        kinds = (vision.get("model_type", "siglip_vision_model"), text.get("model_type", "qwen2"))
        if kinds != ("siglip_vision_model", "qwen2"):
            raise ValueError(f"{kinds[0]} with {kinds[1]} is not supported, only siglip_vision_model with qwen2")
        newlines = _newlines(config.get("mm_newline_position", "one_token"))
        shape = {**_SO400M, **vision, "num_hidden_layers": used}
        return cls(shape, depth, {**_QWEN2, **text}, pooling_of(config), newlines, tied, HUGGING_FACE)

    def layout(self, stored: Iterable[str]) -> Layout:
        """The layout of a checkpoint's names."""
        return find_layout(stored, self.default_layout)

    def unused_tensors(self) -> tuple[str, ...]:
        """How names begin that the tower of a checkpoint may hold and nothing is computed with."""
        used = int(self.vision["num_hidden_layers"])
        later = (f"encoder.layers.{index}." for index in range(used, self.stored_layers))
        return ("post_layernorm.", "head.", "embeddings.position_ids", *later)

    @property
    def patch_grid(self) -> int:
        """Rows, and columns, of patches of a frame."""
        return int(self.vision["image_size"]) // int(self.vision["patch_size"])

    @property
    def token_grid(self) -> int:
        """Rows, and columns, of tokens of a frame."""
        return math.ceil(self.patch_grid / 2) if self.pooling == "bilinear" else self.patch_grid // 2


def is_hugging_face(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is written as transformers does."""
    architectures = config.get("architectures")
    return (
        HUGGING_FACE_ARCHITECTURE in architectures if architectures else config.get("model_type") == "llava_onevision"
    )


def pooling_of(config: Mapping[str, Any]) -> Pooling:
    """How a configuration pools, which is what tells the two families apart: their architecture is the same.

    A newline behind every row is how LLaVA-Video was trained, with a configuration that says bilinear; it is published,
    and compared in the paper, with average pooling and a newline per frame. Others of the same trainer say that
    they were not trained with times.

    Raises:
        ValueError: in a third way.
    """
    trained_on_times = config.get("force_sample", True) or config.get("add_time_instruction", True)
    if config.get("mm_newline_position") == "grid" and trained_on_times:
        return "average"
    mode = config.get("mm_spatial_pool_mode", "bilinear")
    if mode not in ("bilinear", "average"):
        raise ValueError(f"mm_spatial_pool_mode {mode} is not supported, only bilinear and average")
    return cast("Pooling", mode)


def _newlines(position: object) -> Newlines:
    if position == "grid":
        # A newline behind every row has no place once tokens are gone: the published method has one per frame.
        return "frame"
    if position not in ("one_token", "frame", "no_token"):
        raise ValueError(f"mm_newline_position {position} is none of one_token, frame, grid, no_token")
    return position
