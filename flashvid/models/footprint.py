"""Bytes that a model and its tokens take, computed from its configuration and the headers of its weights."""

from dataclasses import dataclass

from flashvid.models.loading import named_dtype, stored_dtype
from flashvid.models.registry import FAMILIES
from flashvid.models.source import ModelSource

# Default of transformers' Qwen2, for configurations that leave it out.
_ATTENTION_HEADS = 32
_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Footprint:
    """Memory and storage of a model, in bytes.

    Attributes:
        vision: Weights of the vision tower and the projector.
        language: Weights of the decoder and its output head.
        stored_token: One stored compressed visual token, its deepstack features included.
        quantised_token: One such token as int8, with its scales.
        cached_token: Keys and values of one token in all layers of the decoder.
    """

    vision: int
    language: int
    stored_token: int
    quantised_token: int
    cached_token: int


def footprint(source: ModelSource, dtype: str | None = None) -> Footprint:
    """Compute a model's footprint without reading its weights.

    Args:
        source: The model.
        dtype: As in `load_model`.

    Raises:
        ModelLoadError: A file of weights can't be read.
        ConfigurationError: The dtype is unknown.
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
