"""Qwen3-VL as a family: what its directories must hold, told from their JSON and headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flashvid.models.architectures import names_architecture
from flashvid.models.qwen.qwen2_5_vl.family import mrope_problem

if TYPE_CHECKING:
    from flashvid.engine.types import LoadOptions, Part
    from flashvid.models.chat import ChatPrompt
    from flashvid.models.qwen.qwen3_vl.language import Qwen3Language
    from flashvid.models.qwen.qwen3_vl.preprocess import Qwen3FramePreprocessor
    from flashvid.models.qwen.qwen3_vl.vision import Qwen3Vision
    from flashvid.models.source import ModelSource
    from flashvid.models.weights import Checkpoint

VISION_PREFIX = "model.visual."
LANGUAGE_PREFIX = "model.language_model."
VIDEO_TOKEN = "<|video_pad|>"  # noqa: S105 - no password
_BOTH = ("weight", "bias")
# Transformers leaves out what has its class's default value.
_DEEPSTACK_LAYERS = (8, 16, 24)


class Qwen3Family:
    """See `flashvid.models.registry.Family`."""

    name = "qwen3_vl"
    architectures: tuple[str, ...] = ("Qwen3VLForConditionalGeneration",)
    special_tokens: tuple[str, ...] = (
        "<|vision_start|>",
        VIDEO_TOKEN,
        "<|vision_end|>",
        "<|im_start|>",
        "<|im_end|>",
    )

    def recognizes(self, config: Mapping[str, Any]) -> bool:
        """See `Family`."""
        return names_architecture(config, self.architectures, self.name)

    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """The configuration must have both sides, and deepstack layers that there are."""
        vision, text = config.get("vision_config"), config.get("text_config")
        if not isinstance(vision, Mapping) or not isinstance(vision.get("depth"), int):
            return "config.json has no vision_config with a depth"
        if not isinstance(text, Mapping) or not {"num_hidden_layers", "hidden_size"} <= text.keys():
            return "config.json gives no num_hidden_layers and hidden_size of the language side"
        indexes = deepstack_layers(config)
        if any(not 0 <= index < vision["depth"] for index in indexes):
            return f"deepstack_visual_indexes {list(indexes)} are not all below the depth of {vision['depth']}"
        if len(indexes) > text["num_hidden_layers"]:
            return f"{len(indexes)} deepstack layers do not fit {text['num_hidden_layers']} decoder layers"
        return mrope_problem(text)

    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """See `Family`; there is one layout."""
        needed = []
        if part != "language":
            needed += [VISION_PREFIX + name for name in vision_tensors(config)]
        if part != "vision":
            needed += [LANGUAGE_PREFIX + name for name in language_tensors(config)]
            needed += [] if is_tied(config) and "lm_head.weight" not in stored else ["lm_head.weight"]
        return needed

    def unused_tensors(self, config: Mapping[str, Any], stored: Iterable[str]) -> tuple[str, ...]:  # noqa: ARG002
        """See `Family`: frequencies, which are computed."""
        return VISION_PREFIX + "rotary_pos_emb.", LANGUAGE_PREFIX + "rotary_emb."

    def hidden_size(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return int(config["text_config"]["hidden_size"])

    def num_layers(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return int(config["text_config"]["num_hidden_layers"])

    def num_deepstack(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return len(deepstack_layers(config))

    def load_preprocessor(
        self, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None
    ) -> Qwen3FramePreprocessor:
        """See `Family`."""
        from flashvid.models.qwen.qwen3_vl.preprocess import Qwen3FramePreprocessor

        return Qwen3FramePreprocessor.load(source, min_pixels=min_pixels, max_pixels=max_pixels)

    def load_chat(self, source: ModelSource) -> ChatPrompt:
        """See `Family`."""
        from flashvid.models.chat import ChatPrompt

        return ChatPrompt.load(source.path, video_token=VIDEO_TOKEN)

    def load_vision(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Qwen3Vision:
        """See `Family`."""
        from flashvid.models.qwen.qwen3_vl.vision import Qwen3Vision

        return Qwen3Vision.load(source, checkpoint, options)

    def load_language(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Qwen3Language:
        """See `Family`."""
        from flashvid.models.qwen.qwen3_vl.language import Qwen3Language

        return Qwen3Language.load(source, checkpoint, options)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output head is the embedding; configurations keep it outside or inside the text's part."""
    return bool(config.get("tie_word_embeddings") or config["text_config"].get("tie_word_embeddings"))


def deepstack_layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    """The vision layers whose features go into the first decoder layers, one each."""
    return tuple(config["vision_config"].get("deepstack_visual_indexes", _DEEPSTACK_LAYERS))


def vision_tensors(config: Mapping[str, Any]) -> list[str]:
    """Names in tower and projectors."""
    block = [
        *(f"{norm}.{kind}" for norm in ("norm1", "norm2") for kind in _BOTH),
        *(f"attn.{layer}.{kind}" for layer in ("qkv", "proj") for kind in _BOTH),
        *(f"mlp.{layer}.{kind}" for layer in ("linear_fc1", "linear_fc2") for kind in _BOTH),
    ]
    mergers = ["merger", *(f"deepstack_merger_list.{level}" for level in range(len(deepstack_layers(config))))]
    return [
        *(f"patch_embed.proj.{kind}" for kind in _BOTH),
        "pos_embed.weight",
        *(f"blocks.{index}.{name}" for index in range(config["vision_config"]["depth"]) for name in block),
        *(
            f"{merger}.{part}.{kind}"
            for merger in mergers
            for part in ("norm", "linear_fc1", "linear_fc2")
            for kind in _BOTH
        ),
    ]


def language_tensors(config: Mapping[str, Any]) -> list[str]:
    """Names in the decoder, without the output head."""
    text = config["text_config"]
    kinds = _BOTH if text.get("attention_bias") else ("weight",)
    layer = [
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        *(f"self_attn.{name}_proj.{kind}" for name in "qkvo" for kind in kinds),
        *(f"self_attn.{name}_norm.weight" for name in "qk"),
        *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    ]
    return [
        "embed_tokens.weight",
        *(f"layers.{index}.{name}" for index in range(text["num_hidden_layers"]) for name in layer),
        "norm.weight",
    ]
