"""Check settings of answering against a model before its weights are read."""

from flashvid.config import InnerPruningConfig
from flashvid.engine.generation_config import GenerationConfig
from flashvid.errors import ConfigurationError
from flashvid.models.registry import FAMILIES
from flashvid.models.source import ModelSource


def check_answering(source: ModelSource, generation: GenerationConfig, pruning: InnerPruningConfig | None) -> None:
    """Refuse settings with which every question about a video would fail, and pruning that would do nothing.

    Reads the model's configuration and tokenizer, but not its weights.

    Args:
        source: The model.
        generation: The settings whose system prompt and template are filled in as for a question.
        pruning: Pruning inside the decoder; None for none.

    Raises:
        ConfigurationError: The pruning layer comes before the last layer that adds visual features, or after the last
            layer of the decoder; or the prompt does not place exactly one video, or can't be filled in.
        ModelLoadError: The tokenizer can't be loaded.
    """
    family, config = FAMILIES[source.family], source.config()
    if pruning is not None:
        pruning.check_deepstack(family.num_deepstack(config))
        num_layers = family.num_layers(config)
        if not pruning.prunes(num_layers):
            raise ConfigurationError(
                f"pruning_layer {pruning.pruning_layer} leaves no layer to prune for, of this model's {num_layers}: "
                "choose an earlier layer, or leave out inner_pruning",
                source.name,
            )
    family.load_chat(source).around_video("What happens?", generation.system_prompt, generation.chat_template)
