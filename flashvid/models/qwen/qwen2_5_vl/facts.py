"""Qwen2.5-VL as a family: what its directories must hold, told from their JSON and headers alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from flashvid.models.architectures import names_architecture

if TYPE_CHECKING:
    from flashvid.engine.types import LoadOptions, Part
    from flashvid.models.chat import ChatPrompt
    from flashvid.models.qwen.qwen2_5_vl.language import QwenLanguage
    from flashvid.models.qwen.qwen2_5_vl.preprocess import QwenFramePreprocessor
    from flashvid.models.qwen.qwen2_5_vl.vision import QwenVision
    from flashvid.models.source import ModelSource
    from flashvid.models.weights import Checkpoint

# Newer layout first; without the word "model." it is that of checkpoints from before transformers 5.
_VISION_PREFIXES = ("model.visual.", "visual.")
_LANGUAGE_PREFIXES = ("model.language_model.", "model.")
VIDEO_TOKEN = "<|video_pad|>"  # noqa: S105 - no password
_BOTH = ("weight", "bias")
_HEAD = "lm_head.weight"


class QwenFamily:
    """See `flashvid.models.registry.Family`."""

    name = "qwen2_5_vl"
    architectures: tuple[str, ...] = ("Qwen2_5_VLForConditionalGeneration",)
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
        """The configuration must have both sides, and a last vision block whose scores see the whole frame (spec 7)."""
        vision = config.get("vision_config")
        if not isinstance(vision, Mapping) or "depth" not in vision:
            return "config.json has no vision_config with a depth"
        if "num_hidden_layers" not in _text_config(config) or "hidden_size" not in _text_config(config):
            return "config.json gives no num_hidden_layers and hidden_size of the language side"
        # Transformers' default belongs to a depth of 32.
        if vision["depth"] - 1 not in vision.get("fullatt_block_indexes", (7, 15, 23, 31)):
            return "the last vision block attends to windows, not to whole frames: no attention scores to be had"
        if not isinstance(window := vision.get("window_size", 112), int) or window < 1:
            return f"window_size {window!r} of the vision side is no number of pixels"
        return mrope_problem(_text_config(config))

    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """See `Family`."""
        names, needed = frozenset(stored), []
        if part != "language":
            vision = vision_prefix(names)
            needed += [vision + name for name in vision_tensors(config)]
        if part != "vision":
            language = language_prefix(names)
            needed += [language + name for name in language_tensors(config)]
            needed += [] if is_tied(config) and _HEAD not in names else [_HEAD]
        return needed

    def unused_tensors(self, config: Mapping[str, Any], stored: Iterable[str]) -> tuple[str, ...]:  # noqa: ARG002
        """See `Family`: frequencies, which are computed."""
        names = frozenset(stored)
        return vision_prefix(names) + "rotary_pos_emb.", language_prefix(names) + "rotary_emb."

    def hidden_size(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return int(_text_config(config)["hidden_size"])

    def num_layers(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return int(_text_config(config)["num_hidden_layers"])

    def num_deepstack(self, config: Mapping[str, Any]) -> int:  # noqa: ARG002 - the same for all
        """See `Family`."""
        return 0

    def load_preprocessor(
        self, source: ModelSource, *, min_pixels: int | None, max_pixels: int | None
    ) -> QwenFramePreprocessor:
        """See `Family`."""
        from flashvid.models.qwen.qwen2_5_vl.preprocess import QwenFramePreprocessor

        return QwenFramePreprocessor.load(source, min_pixels=min_pixels, max_pixels=max_pixels)

    def load_chat(self, source: ModelSource) -> ChatPrompt:
        """See `Family`."""
        from flashvid.models.chat import ChatPrompt

        return ChatPrompt.load(source.path, video_token=VIDEO_TOKEN)

    def load_vision(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> QwenVision:
        """See `Family`."""
        from flashvid.models.qwen.qwen2_5_vl.vision import QwenVision

        return QwenVision.load(source, checkpoint, options)

    def load_language(self, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> QwenLanguage:
        """See `Family`."""
        from flashvid.models.qwen.qwen2_5_vl.language import QwenLanguage

        return QwenLanguage.load(source, checkpoint, options)


def mrope_problem(text: Mapping[str, Any]) -> str | None:
    """What is wrong with the shares of a head that time, height and width rotate, as a sentence; None if nothing is."""
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, Mapping) or "mrope_section" not in rope:
        return None
    section = rope["mrope_section"]
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    if isinstance(section, list) and all(isinstance(part, int) for part in section) and 2 * sum(section) == head:
        return None
    return f"mrope_section {section!r} does not make half of a head of {head}"


def vision_prefix(stored: Iterable[str]) -> str:
    """What stands before the vision side's names in a checkpoint."""
    return _prefix(stored, _VISION_PREFIXES)


def language_prefix(stored: Iterable[str]) -> str:
    """What stands before the decoder's names in a checkpoint."""
    return _prefix(stored, _LANGUAGE_PREFIXES)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output head is the embedding; configurations keep it outside or inside the text's part."""
    return bool(config.get("tie_word_embeddings") or _text_config(config).get("tie_word_embeddings"))


def vision_tensors(config: Mapping[str, Any]) -> list[str]:
    """Names in tower and projector."""
    block = [
        "norm1.weight",
        "norm2.weight",
        *(f"attn.{layer}.{kind}" for layer in ("qkv", "proj") for kind in _BOTH),
        *(f"mlp.{layer}_proj.{kind}" for layer in ("gate", "up", "down") for kind in _BOTH),
    ]
    return [
        "patch_embed.proj.weight",
        *(f"blocks.{index}.{name}" for index in range(config["vision_config"]["depth"]) for name in block),
        "merger.ln_q.weight",
        *(f"merger.mlp.{layer}.{kind}" for layer in (0, 2) for kind in _BOTH),
    ]


def language_tensors(config: Mapping[str, Any]) -> list[str]:
    """Names in the decoder, without the output head."""
    layer = [
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        *(f"self_attn.{name}_proj.{kind}" for name in "qkv" for kind in _BOTH),
        "self_attn.o_proj.weight",
        *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    ]
    return [
        "embed_tokens.weight",
        *(f"layers.{index}.{name}" for index in range(_text_config(config)["num_hidden_layers"]) for name in layer),
        "norm.weight",
    ]


def _prefix(stored: Iterable[str], prefixes: tuple[str, ...]) -> str:
    names = list(stored)
    return next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)), prefixes[0])


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The published models keep the text's settings at the top."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config
