"""Configure and build modules of transformers, and read a decoder with its output head."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from flashvid.errors import ConfigurationError, ModelLoadError, first_line
from flashvid.models.family import LoadOptions
from flashvid.models.source import ModelSource
from flashvid.models.weights import Checkpoint

Config = TypeVar("Config", bound=PreTrainedConfig)
Module = TypeVar("Module", bound=nn.Module)


def transformers_config(
    kind: type[Config], fields: Mapping[str, Any], source: ModelSource, options: LoadOptions
) -> Config:
    """Make a configuration of transformers, with the attention implementation of the options.

    Raises:
        ModelLoadError: Transformers refuses the fields; the message says why.
    """
    chosen = {} if options.attn_implementation is None else {"attn_implementation": options.attn_implementation}
    try:
        return kind.from_dict(dict(fields), **chosen)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"config.json is not a valid {kind.__name__}: {error}", str(source.path)) from None


def without_memory(kind: Callable[[Any], Module], config: object) -> Module:
    """Build a module on the meta device: its weights are neither allocated twice nor initialised at random.

    Raises:
        ConfigurationError: The attention implementation is unknown or not installed.
    """
    try:
        with torch.device("meta"):
            return kind(config)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"transformers can't build the model: {first_line(error)}") from None


def read_decoder(
    kind: Callable[[Any], Module],
    config: PreTrainedConfig,
    checkpoint: Checkpoint,
    options: LoadOptions,
    *,
    prefix: str,
    names: Sequence[str],
    head: str,
) -> tuple[Module, Tensor]:
    """Read a decoder and its output head, and no other tensor.

    Args:
        kind: Transformers' class of the decoder.
        config: Configuration of the decoder.
        checkpoint: The files that hold the tensors.
        options: How to load them.
        prefix: Prefix of the decoder's tensors in the checkpoint.
        names: Names of the decoder's tensors without the prefix, without the output head.
        head: Prefix of the output head's `weight`; if the checkpoint does not store it, the embedding is the head.

    Returns:
        The decoder in evaluation mode, and the head's weight `[V, D]`.

    Raises:
        ModelLoadError: Tensors do not fit.
        ConfigurationError: The attention implementation is unknown or not installed.
    """
    decoder: Any = without_memory(kind, config)
    checkpoint.fill(decoder, checkpoint.read(prefix, names, options.dtype, options.device), "decoder")
    # Frequencies are computed, not stored, so a module on the meta device lacks them.
    decoder.rotary_emb = type(decoder.rotary_emb)(config).to(options.device)
    linear = nn.Linear(config.hidden_size, config.vocab_size, bias=False, device=torch.device("meta"))
    weight = {"weight": decoder.embed_tokens.weight}
    # As in transformers, a stored head is used even if the configuration ties it to the embedding.
    if f"{head}weight" in checkpoint.files:
        own = checkpoint.read(head, ["weight"], options.dtype, options.device)
        weight = weight if torch.equal(own["weight"], weight["weight"]) else own
    checkpoint.fill(linear, weight, "output head")
    return decoder.train(False), linear.weight.detach()
