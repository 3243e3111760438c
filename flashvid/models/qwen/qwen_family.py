"""Base of the Qwen families: special tokens, names of tensors, and the text part of a configuration."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from flashvid.models.family import Family, Part

VIDEO_TOKEN = "<|video_pad|>"  # noqa: S105 - not a password
HEAD = "lm_head."


class QwenFamily(Family):
    """Base of the Qwen vision language families.

    Attributes:
        vision_prefixes: Prefixes of the vision side's tensors in checkpoints, that of the newest layout first.
        language_prefixes: Prefixes of the decoder's tensors in checkpoints, that of the newest layout first.
    """

    vision_prefixes: ClassVar[tuple[str, ...]]
    language_prefixes: ClassVar[tuple[str, ...]]
    special_tokens = ("<|vision_start|>", VIDEO_TOKEN, "<|vision_end|>", "<|im_start|>", "<|im_end|>")
    video_token = VIDEO_TOKEN

    @abstractmethod
    def vision_tensors(self, config: Mapping[str, Any]) -> list[str]:
        """Return the names of the tensors of tower and projectors, without prefix."""

    @abstractmethod
    def language_tensors(self, config: Mapping[str, Any]) -> list[str]:
        """Return the names of the decoder's tensors, without prefix and without the output head."""

    def vision_prefix(self, stored: Iterable[str]) -> str:
        """Return the prefix of the vision side's tensors in a checkpoint that holds `stored`."""
        return _prefix(stored, self.vision_prefixes)

    def language_prefix(self, stored: Iterable[str]) -> str:
        """Return the prefix of the decoder's tensors in a checkpoint that holds `stored`."""
        return _prefix(stored, self.language_prefixes)

    def needed_tensors(self, config: Mapping[str, Any], stored: Iterable[str], part: Part) -> list[str]:
        """See `Family`."""
        names, needed = frozenset(stored), []
        if part != "language":
            needed += [self.vision_prefix(names) + name for name in self.vision_tensors(config)]
        if part != "vision":
            needed += [self.language_prefix(names) + name for name in self.language_tensors(config)]
            tied = config.get("tie_word_embeddings") or self.text_config(config).get("tie_word_embeddings")
            head = f"{HEAD}weight"
            needed += [] if tied and head not in names else [head]
        return needed

    def unused_tensors(self, config: Mapping[str, Any], stored: Iterable[str]) -> tuple[str, ...]:  # noqa: ARG002
        """See `Family`: the frequencies, which are computed."""
        names = frozenset(stored)
        return self.vision_prefix(names) + "rotary_pos_emb.", self.language_prefix(names) + "rotary_emb."


def _prefix(stored: Iterable[str], prefixes: tuple[str, ...]) -> str:
    names = list(stored)
    return next((prefix for prefix in prefixes if any(name.startswith(prefix) for name in names)), prefixes[0])


def config_problem(config: Mapping[str, Any], text: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a configuration of either family, as a sentence; None if it can be run.

    Args:
        config: Content of config.json.
        text: Its settings of the language side.
    """
    vision = config.get("vision_config")
    if not isinstance(vision, Mapping) or not isinstance(vision.get("depth"), int):
        return "config.json has no vision_config with a depth"
    if not {"num_hidden_layers", "hidden_size"} <= text.keys():
        return "config.json lacks num_hidden_layers or hidden_size of the language side"
    rope = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(rope, Mapping) or "mrope_section" not in rope:
        return None
    # The parts of a head that rotate by time, height and width.
    section = rope["mrope_section"]
    head = text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"]
    if isinstance(section, list) and all(isinstance(part, int) for part in section) and 2 * sum(section) == head:
        return None
    return f"mrope_section {section!r} does not add up to half of a head of {head}"
