"""Qwen3-VL: what its directories must hold, by their JSON and by the headers of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flashvid.models.family import Part
from flashvid.models.qwen.qwen_family import QwenFamily, config_problem, head_tensors
from flashvid.models.tensors import BOTH, decoder_tensors

VISION_PREFIX = "model.visual."
LANGUAGE_PREFIX = "model.language_model."
# Transformers leaves out a value that is its class's default.
_DEEPSTACK_LAYERS = (8, 16, 24)
_PACKAGE = "flashvid.models.qwen.qwen3_vl"


class Qwen3Family(QwenFamily):
    """See `flashvid.models.family.Family`."""

    name = "qwen3_vl"
    architectures = ("Qwen3VLForConditionalGeneration",)
    preprocessor = f"{_PACKAGE}.preprocess:Qwen3FramePreprocessor"
    vision = f"{_PACKAGE}.vision:Qwen3Vision"
    language = f"{_PACKAGE}.language:Qwen3Language"

    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """See `Family`; the configuration must have both sides, and deepstack layers that exist."""
        if not isinstance(config.get("text_config"), Mapping):
            return "config.json gives no num_hidden_layers and hidden_size of the language side"
        if problem := config_problem(config):
            return problem
        depth, num_layers, indexes = config["vision_config"]["depth"], self.num_layers(config), deepstack_layers(config)
        if any(not 0 <= index < depth for index in indexes):
            return f"deepstack_visual_indexes {list(indexes)} are not all below the depth of {depth}"
        if len(indexes) > num_layers:
            return f"{len(indexes)} deepstack layers do not fit {num_layers} decoder layers"
        return None

    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """See `Family`; there is one layout."""
        needed = []
        if part != "language":
            needed += [VISION_PREFIX + name for name in vision_tensors(config)]
        if part != "vision":
            needed += [LANGUAGE_PREFIX + name for name in language_tensors(config)]
            needed += head_tensors(config, frozenset(stored))
        return needed

    def unused_tensors(self, config: Mapping[str, Any], stored: Iterable[str]) -> tuple[str, ...]:  # noqa: ARG002
        """See `Family`: frequencies, which are computed."""
        return VISION_PREFIX + "rotary_pos_emb.", LANGUAGE_PREFIX + "rotary_emb."

    def num_deepstack(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return len(deepstack_layers(config))


def deepstack_layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the vision layers whose features go into the first decoder layers, one each."""
    return tuple(config["vision_config"].get("deepstack_visual_indexes", _DEEPSTACK_LAYERS))


def vision_tensors(config: Mapping[str, Any]) -> list[str]:
    """List the tensors of tower and projectors, without prefix."""
    block = [
        *(f"{norm}.{kind}" for norm in ("norm1", "norm2") for kind in BOTH),
        *(f"attn.{layer}.{kind}" for layer in ("qkv", "proj") for kind in BOTH),
        *(f"mlp.{layer}.{kind}" for layer in ("linear_fc1", "linear_fc2") for kind in BOTH),
    ]
    mergers = ["merger", *(f"deepstack_merger_list.{level}" for level in range(len(deepstack_layers(config))))]
    parts = ("norm", "linear_fc1", "linear_fc2")
    return [
        *(f"patch_embed.proj.{kind}" for kind in BOTH),
        "pos_embed.weight",
        *(f"blocks.{index}.{name}" for index in range(config["vision_config"]["depth"]) for name in block),
        *(f"{merger}.{part}.{kind}" for merger in mergers for part in parts for kind in BOTH),
    ]


def language_tensors(config: Mapping[str, Any]) -> list[str]:
    """List the tensors of the decoder, without prefix and output head."""
    text = config["text_config"]
    kinds = BOTH if text.get("attention_bias") else ("weight",)
    projections = (f"{name}_proj.{kind}" for name in "qkvo" for kind in kinds)
    return decoder_tensors(text["num_hidden_layers"], [*projections, *(f"{name}_norm.weight" for name in "qk")])
