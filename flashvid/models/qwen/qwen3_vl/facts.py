"""Facts about Qwen3-VL: its configuration and the names of its tensors."""

from collections.abc import Mapping
from typing import Any

from flashvid.models.qwen.qwen_family import QwenFamily, config_problem
from flashvid.models.tensors import biased, decoder_tensors

# The default of transformers, which leaves default values out of config.json.
_DEEPSTACK_LAYERS = (8, 16, 24)
_PACKAGE = "flashvid.models.qwen.qwen3_vl"


class Qwen3Family(QwenFamily):
    """See `flashvid.models.family.Family`."""

    name = "qwen3_vl"
    architectures = ("Qwen3VLForConditionalGeneration",)
    preprocessor = f"{_PACKAGE}.preprocess:Qwen3FramePreprocessor"
    vision = f"{_PACKAGE}.vision:Qwen3Vision"
    language = f"{_PACKAGE}.language:Qwen3Language"
    vision_prefixes = ("model.visual.",)
    language_prefixes = ("model.language_model.",)

    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """See `Family`; the configuration must have both sides and name deepstack layers that exist."""
        if not isinstance(config.get("text_config"), Mapping):
            return "config.json lacks num_hidden_layers or hidden_size of the language side"
        if problem := config_problem(config, config["text_config"]):
            return problem
        depth, num_layers, indexes = config["vision_config"]["depth"], self.num_layers(config), deepstack_layers(config)
        if any(not 0 <= index < depth for index in indexes):
            return f"deepstack_visual_indexes {list(indexes)} are not all below the depth of {depth}"
        if len(indexes) > num_layers:
            return f"{len(indexes)} deepstack layers need as many decoder layers, but the decoder has {num_layers}"
        return None

    def num_deepstack(self, config: Mapping[str, Any]) -> int:
        """See `Family`."""
        return len(deepstack_layers(config))

    def vision_tensors(self, config: Mapping[str, Any]) -> list[str]:
        """See `QwenFamily`."""
        block = biased("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.linear_fc1", "mlp.linear_fc2")
        mergers = ["merger", *(f"deepstack_merger_list.{level}" for level in range(len(deepstack_layers(config))))]
        return [
            *biased("patch_embed.proj"),
            "pos_embed.weight",
            *(f"blocks.{index}.{name}" for index in range(config["vision_config"]["depth"]) for name in block),
            *biased(*(f"{merger}.{part}" for merger in mergers for part in ("norm", "linear_fc1", "linear_fc2"))),
        ]

    def language_tensors(self, config: Mapping[str, Any]) -> list[str]:
        """See `QwenFamily`."""
        text = config["text_config"]
        layers = ("q_proj", "k_proj", "v_proj", "o_proj")
        projections = biased(*layers) if text.get("attention_bias") else [f"{layer}.weight" for layer in layers]
        return decoder_tensors(text["num_hidden_layers"], [*projections, "q_norm.weight", "k_norm.weight"])


def deepstack_layers(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the vision layers whose features the first decoder layers add, one layer each."""
    return tuple(config["vision_config"].get("deepstack_visual_indexes", _DEEPSTACK_LAYERS))
