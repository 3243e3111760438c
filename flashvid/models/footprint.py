"""What a model takes in memory and on disk, told from its configuration and the headers of its weights."""

from __future__ import annotations

from dataclasses import dataclass

from flashvid.models.loading import named_dtype, stored_dtype
from flashvid.models.registry import FAMILIES
from flashvid.models.source import ModelSource

# Where a configuration leaves them out, as transformers' Qwen2 does.
_ATTENTION_HEADS = 32
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Footprint:
    """Bytes.

    Attributes:
        vision: Weights of the vision tower and the projector.
        language: Weights of the decoder and its output head.
        stored_token: One compressed visual token as it is stored, its deepstack features included.
        quantised_token: The same as int8, with its scales.
        cached_token: Keys and values of one token in all layers of the decoder.
    """

    vision: int
    language: int
    stored_token: int
    quantised_token: int
    cached_token: int


def footprint(source: ModelSource, dtype: str | None = None) -> Footprint:
    """Measure a model without reading its weights.

    Args:
        source: The model.
        dtype: As in `load_model`.

    Raises:
        ModelLoadError: a file of weights that can't be read.
        ConfigurationError: an unknown dtype.
    """
    precision = named_dtype(dtype) or stored_dtype(source)
    family, config, checkpoint = FAMILIES[source.family], source.config(), source.checkpoint()
    itemsize = precision.itemsize if precision is not None else _FLOAT32_BYTES
    hidden = family.hidden_size(config)
    levels = 1 + family.num_deepstack(config)
    # Older configurations have the decoder's fields at the top.
    text = {**config, **(config.get("text_config") or {})}
    heads = text.get("num_attention_heads", _ATTENTION_HEADS)
    head_dim = text.get("head_dim") or hidden // heads
    return Footprint(
        vision=checkpoint.num_bytes(family.needed_tensors(config, checkpoint.files, "vision"), precision),
        language=checkpoint.num_bytes(family.needed_tensors(config, checkpoint.files, "language"), precision),
        stored_token=hidden * itemsize * levels,
        quantised_token=(hidden + _FLOAT32_BYTES) * levels,
        cached_token=2 * text.get("num_key_value_heads", heads) * head_dim * family.num_layers(config) * itemsize,
    )
