"""What the Qwen families have in common: special tokens, and the text part of their configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashvid.models.family import Family

VIDEO_TOKEN = "<|video_pad|>"  # noqa: S105 - not a password
HEAD = "lm_head."


class QwenFamily(Family):
    """Base of the Qwen vision language families."""

    special_tokens = ("<|vision_start|>", VIDEO_TOKEN, "<|vision_end|>", "<|im_start|>", "<|im_end|>")
    video_token = VIDEO_TOKEN

    def hidden_size(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return int(text_config(config)["hidden_size"])

    def num_layers(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return int(text_config(config)["num_hidden_layers"])


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the text side; the published Qwen2.5-VL files keep them at the top."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def head_tensors(config: Mapping[str, Any], stored: frozenset[str]) -> list[str]:
    """List the output head's tensor, unless it is the embedding and no head is stored."""
    head = f"{HEAD}weight"
    tied = config.get("tie_word_embeddings") or text_config(config).get("tie_word_embeddings")
    return [] if tied and head not in stored else [head]


def config_problem(config: Mapping[str, Any]) -> str | None:
    """Return what both families refuse in a configuration, as a sentence; None if nothing."""
    vision, text = config.get("vision_config"), text_config(config)
    if not isinstance(vision, Mapping) or not isinstance(vision.get("depth"), int):
        return "config.json has no vision_config with a depth"
    if not {"num_hidden_layers", "hidden_size"} <= text.keys():
        return "config.json gives no num_hidden_layers and hidden_size of the language side"
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, Mapping) or "mrope_section" not in rope:
        return None
    # The shares of a head that time, height and width rotate.
    section = rope["mrope_section"]
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    if isinstance(section, list) and all(isinstance(part, int) for part in section) and 2 * sum(section) == head:
        return None
    return f"mrope_section {section!r} does not make half of a head of {head}"
