"""Transformers' modules: configured, built without memory, and a decoder filled with its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from flashvid.errors import ConfigurationError, ModelLoadError
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
        ModelLoadError: transformers refuses the fields; says why.
    """
    chosen = {} if options.attn_implementation is None else {"attn_implementation": options.attn_implementation}
    try:
        return kind.from_dict(dict(fields), **chosen)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"config.json makes no {kind.__name__}: {error}", str(source.path)) from None


def without_memory(kind: Callable[[Any], Module], config: object) -> Module:
    """Build a module whose parameters have shapes and no memory: nothing is allocated twice, nothing drawn at random.

    Raises:
        ConfigurationError: an attention implementation that is unknown or not installed.
    """
    try:
        with torch.device("meta"):
            return kind(config)
    except (ImportError, ValueError) as error:
        raise ConfigurationError(f"the model can't be built as asked: {str(error).splitlines()[0]}") from None


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
    """Read a decoder and its output head; no other tensor is read.

    Args:
        kind: Transformers' class of the decoder.
        config: Of the decoder.
        checkpoint: Where its tensors are.
        options: How to load them.
        prefix: What stands before their names.
        names: The decoder's tensors, without the output head.
        head: What stands before the output head's `weight`; where none is stored, it is the embedding.

    Returns:
        The decoder, in evaluation mode, and the head `[V, D]`.

    Raises:
        ModelLoadError: tensors that do not fit.
        ConfigurationError: an attention implementation that there is not.
    """
    decoder: Any = without_memory(kind, config)
    checkpoint.fill(decoder, checkpoint.read(prefix, names, options.dtype, options.device), "decoder")
    # Its frequencies are computed, not stored, so the module without memory has none.
    decoder.rotary_emb = type(decoder.rotary_emb)(config).to(options.device)
    linear = nn.Linear(config.hidden_size, config.vocab_size, bias=False, device=torch.device("meta"))
    weight = {"weight": decoder.embed_tokens.weight}
    # Stored, it counts, whatever the configuration says of tied weights: transformers does the same.
    if f"{head}weight" in checkpoint.files:
        own = checkpoint.read(head, ["weight"], options.dtype, options.device)
        weight = weight if torch.equal(own["weight"], weight["weight"]) else own
    checkpoint.fill(linear, weight, "output head")
    return decoder.train(False), linear.weight.detach()
