"""Settings of a LLaVA model, from a configuration of the original code or of transformers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

from flashvid.models.llava.layouts import HUGGING_FACE, ORIGINAL, Layout, find_layout

Pooling = Literal["bilinear", "average"]
Newlines = Literal["one_token", "frame", "no_token"]

ORIGINAL_ARCHITECTURE = "LlavaQwenForCausalLM"
HUGGING_FACE_ARCHITECTURE = "LlavaOnevisionForConditionalGeneration"
# google/siglip-so400m-patch14-384: original configurations name the tower without its shape.
_SO400M: dict[str, Any] = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
}
# Defaults of transformers, which leaves default values out of config.json.
_QWEN2: dict[str, Any] = {"hidden_size": 4096, "num_hidden_layers": 32, "vocab_size": 151936}
# Fields of Qwen2, which original configurations keep at the top level with everything else.
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
        stored_layers: Number of layers of the tower, unused ones included.
        text: Fields of a Qwen2 configuration.
        pooling: How 2 x 2 patches become a token.
        newlines: Where the newline's embedding is placed among the visual tokens.
        tied: Whether the output head is the embedding.
        default_layout: Layout of the checkpoint's names, if the names do not identify it.
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
        """Read the content of config.json.

        Raises:
            ValueError: This library can't run the model; the message says why, as a sentence.
        """
        parsed = cls._hugging_face(config) if is_hugging_face(config) else cls._original(config)
        for part, keys in (
            (parsed.text, ("hidden_size", "num_hidden_layers", "vocab_size")),
            (parsed.vision, ("hidden_size", "num_hidden_layers", "image_size", "patch_size")),
        ):
            if missing := [key for key in keys if not isinstance(part.get(key), int)]:
                side = "language" if part is parsed.text else "vision"
                raise ValueError(f"config.json lacks {', '.join(missing)} of the {side} side")
        return parsed

    @classmethod
    def _original(cls, config: Mapping[str, Any]) -> Self:
        if config.get("mm_projector_type", "mlp2x_gelu") != "mlp2x_gelu":
            raise ValueError(f"mm_projector_type {config['mm_projector_type']} is not supported, only mlp2x_gelu")
        if config.get("mm_spatial_pool_stride", 2) != 2:
            raise ValueError(f"mm_spatial_pool_stride {config['mm_spatial_pool_stride']} is not supported, only 2")
        if config.get("add_faster_video"):
            raise ValueError("add_faster_video is not supported: its slow and fast frames differ in tokens")
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
        # Transformers counts hidden states, one more than there are layers.
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
        """Return the layout of a checkpoint that holds `stored`."""
        return find_layout(stored, self.default_layout)

    def unused_tensors(self) -> tuple[str, ...]:
        """Return the prefixes of the tower's tensors that a checkpoint may hold and that are not used."""
        used = int(self.vision["num_hidden_layers"])
        later = (f"encoder.layers.{index}." for index in range(used, self.stored_layers))
        return ("post_layernorm.", "head.", "embeddings.position_ids", *later)

    @property
    def patch_grid(self) -> int:
        """Patches along each side of a frame."""
        return int(self.vision["image_size"]) // int(self.vision["patch_size"])

    @property
    def token_grid(self) -> int:
        """Tokens along each side of a frame."""
        return math.ceil(self.patch_grid / 2) if self.pooling == "bilinear" else self.patch_grid // 2


def is_hugging_face(config: Mapping[str, Any]) -> bool:
    """Return whether transformers, and not the original code, wrote a configuration."""
    architectures = config.get("architectures")
    return (
        HUGGING_FACE_ARCHITECTURE in architectures if architectures else config.get("model_type") == "llava_onevision"
    )


def pooling_of(config: Mapping[str, Any]) -> Pooling:
    """Return how a model pools, which distinguishes the two families: their architecture is the same.

    LLaVA-Video was trained with a newline after every row and a configuration that says bilinear, but its published
    evaluation, which the paper compares with, uses average pooling and a newline per frame. Other models of the same
    trainer state that they were not trained with timestamps.

    Raises:
        ValueError: The pooling is neither bilinear nor average.
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
        # Compressed frames have no rows to end with a newline: the published method uses one newline per frame.
        return "frame"
    if position not in ("one_token", "frame", "no_token"):
        raise ValueError(f"mm_newline_position {position} is not one of one_token, frame, grid, no_token")
    return position
