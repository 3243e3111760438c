"""What settings of answering ask of a model, told before any of its weights is read."""

from __future__ import annotations

from flashvid.config import InnerPruningConfig
from flashvid.engine.generation_config import GenerationConfig
from flashvid.errors import ConfigurationError
from flashvid.models.registry import FAMILIES
from flashvid.models.source import ModelSource


def check_answering(source: ModelSource, generation: GenerationConfig, pruning: InnerPruningConfig | None) -> None:
    """Refuse settings that every question about a video would fail with, or that would do nothing.

    Reads a model's configuration and tokenizer, no weights.

    Args:
        source: The model.
        generation: Its system prompt and template are filled in as for a question.
        pruning: Inside the decoder; None for none.

    Raises:
        ConfigurationError: pruning before the last layer that visual features are added behind, or behind the last
            layer; a system prompt or template that does not place one video, or can't be filled in.
        ModelLoadError: the tokenizer can't be loaded.
    """
    family, config = FAMILIES[source.family], source.config()
    if pruning is not None:
        pruning.check_deepstack(family.num_deepstack(config))
        num_layers = family.num_layers(config)
        if not pruning.prunes(num_layers):
            raise ConfigurationError(
                f"pruning_layer {pruning.pruning_layer} leaves none of this model's {num_layers} layers to prune for: "
                "choose an earlier one, or no inner pruning",
                source.name,
            )
    family.load_chat(source).around_video("What happens?", generation.system_prompt, generation.chat_template)
