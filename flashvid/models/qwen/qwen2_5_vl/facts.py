"""Qwen2.5-VL: what its directories must hold, by their JSON and by the headers of their weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flashvid.models.family import Part
from flashvid.models.qwen.qwen_family import QwenFamily, config_problem, head_tensors, text_config
from flashvid.models.tensors import BOTH, decoder_tensors

# Newer layout first; without the word "model." it is that of checkpoints from before transformers 5.
_VISION_PREFIXES = ("model.visual.", "visual.")
_LANGUAGE_PREFIXES = ("model.language_model.", "model.")
_PACKAGE = "flashvid.models.qwen.qwen2_5_vl"


class Qwen2_5Family(QwenFamily):  # noqa: N801 - the model's name has the underscore
    """See `flashvid.models.family.Family`."""

    name = "qwen2_5_vl"
    architectures = ("Qwen2_5_VLForConditionalGeneration",)
    preprocessor = f"{_PACKAGE}.preprocess:QwenFramePreprocessor"
    vision = f"{_PACKAGE}.vision:QwenVision"
    language = f"{_PACKAGE}.language:QwenLanguage"

    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """See `Family`; the last vision block must attend to whole frames, since scores are taken from it."""
        if problem := config_problem(config):
            return problem
        vision = config["vision_config"]
        # Transformers' default belongs to a depth of 32.
        if vision["depth"] - 1 not in vision.get("fullatt_block_indexes", (7, 15, 23, 31)):
            return "the last vision block attends to windows, not to whole frames: it gives no attention scores"
        if not isinstance(window := vision.get("window_size", 112), int) or window < 1:
            return f"window_size {window!r} of the vision side is not a number of pixels"
        return None

    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """See `Family`."""
        names, needed = frozenset(stored), []
        if part != "language":
            needed += [vision_prefix(names) + name for name in vision_tensors(config)]
        if part != "vision":
            needed += [language_prefix(names) + name for name in language_tensors(config)]
            needed += head_tensors(config, names)
        return needed

    def unused_tensors(self, config: Mapping[str, Any], stored: Iterable[str]) -> tuple[str, ...]:  # noqa: ARG002
        """See `Family`: frequencies, which are computed."""
        names = frozenset(stored)
        return vision_prefix(names) + "rotary_pos_emb.", language_prefix(names) + "rotary_emb."


def vision_prefix(stored: Iterable[str]) -> str:
    """Return the prefix of the vision side's names in a checkpoint."""
    return _prefix(stored, _VISION_PREFIXES)


def language_prefix(stored: Iterable[str]) -> str:
    """Return the prefix of the decoder's names in a checkpoint."""
    return _prefix(stored, _LANGUAGE_PREFIXES)


def vision_tensors(config: Mapping[str, Any]) -> list[str]:
    """List the tensors of tower and projector, without prefix."""
    block = [
        "norm1.weight",
        "norm2.weight",
        *(f"attn.{layer}.{kind}" for layer in ("qkv", "proj") for kind in BOTH),
        *(f"mlp.{layer}_proj.{kind}" for layer in ("gate", "up", "down") for kind in BOTH),
    ]
    return [
        "patch_embed.proj.weight",
        *(f"blocks.{index}.{name}" for index in range(config["vision_config"]["depth"]) for name in block),
        "merger.ln_q.weight",
        *(f"merger.mlp.{layer}.{kind}" for layer in (0, 2) for kind in BOTH),
    ]


def language_tensors(config: Mapping[str, Any]) -> list[str]:
    """List the tensors of the decoder, without prefix and output head."""
    return decoder_tensors(text_config(config)["num_hidden_layers"])


def _prefix(stored: Iterable[str], prefixes: tuple[str, ...]) -> str:
    names = list(stored)
    return next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)), prefixes[0])
