"""Facts about Qwen2.5-VL: its configuration and the names of its tensors."""

from collections.abc import Mapping
from typing import Any

from flashvid.models.qwen.qwen_family import QwenFamily, config_problem
from flashvid.models.tensors import biased, decoder_tensors

_PACKAGE = "flashvid.models.qwen.qwen2_5_vl"


class Qwen2_5Family(QwenFamily):  # noqa: N801 - the model's name has the underscore
    """See `flashvid.models.family.Family`."""

    name = "qwen2_5_vl"
    architectures = ("Qwen2_5_VLForConditionalGeneration",)
    preprocessor = "flashvid.models.qwen.qwen_preprocess:QwenFramePreprocessor"
    vision = f"{_PACKAGE}.vision:QwenVision"
    language = f"{_PACKAGE}.language:QwenLanguage"
    # The second prefixes are those of checkpoints from before transformers 5.
    vision_prefixes = ("model.visual.", "visual.")
    language_prefixes = ("model.language_model.", "model.")

    def check_config(self, config: Mapping[str, Any]) -> str | None:
        """See `Family`; the last vision block must attend to whole frames, because scores come from it."""
        if problem := config_problem(config, self.text_config(config)):
            return problem
        vision = config["vision_config"]
        # The default of transformers, for a depth of 32.
        if vision["depth"] - 1 not in vision.get("fullatt_block_indexes", (7, 15, 23, 31)):
            return "the last vision block attends to windows, not to whole frames: it does not yield attention scores"
        if not isinstance(window := vision.get("window_size", 112), int) or window < 1:
            return f"window_size {window!r} of the vision side is not a number of pixels"
        return None

    def vision_tensors(self, config: Mapping[str, Any]) -> list[str]:
        """See `QwenFamily`."""
        block = [
            *("norm1.weight", "norm2.weight"),
            *biased("attn.qkv", "attn.proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        ]
        return [
            "patch_embed.proj.weight",
            *(f"blocks.{index}.{name}" for index in range(config["vision_config"]["depth"]) for name in block),
            "merger.ln_q.weight",
            *biased("merger.mlp.0", "merger.mlp.2"),
        ]

    def language_tensors(self, config: Mapping[str, Any]) -> list[str]:
        """See `QwenFamily`."""
        return decoder_tensors(self.num_layers(config))
