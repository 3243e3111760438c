"""The weights of a decoder and its output head, read into a module that had no memory before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from flashvid.models.family import LoadOptions
from flashvid.models.vision import without_memory
from flashvid.models.weights import Checkpoint

Module = TypeVar("Module", bound=nn.Module)


def read_decoder(
    kind: Callable[[Any], Module],
    config: PreTrainedConfig,
    checkpoint: Checkpoint,
    options: LoadOptions,
    *,
    prefix: str,
    names: Sequence[str],
    head: str,
    what: str = "decoder",
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
        what: How errors call the decoder.

    Returns:
        The decoder, in evaluation mode, and the head `[V, D]`.

    Raises:
        ModelLoadError: tensors that do not fit.
        ConfigurationError: an attention implementation that there is not.
    """
    decoder: Any = without_memory(kind, config)
    checkpoint.fill(decoder, checkpoint.read(prefix, names, options.dtype, options.device), what)
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
