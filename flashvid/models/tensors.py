"""Names of the tensors that Qwen2 and Qwen3 decoders have in common."""

from collections.abc import Iterable


def biased(*layers: str) -> list[str]:
    """List the weight and the bias of each layer."""
    return [f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")]


QWEN2_ATTENTION = (*biased("q_proj", "k_proj", "v_proj"), "o_proj.weight")


def decoder_tensors(num_layers: int, attention: Iterable[str] = QWEN2_ATTENTION) -> list[str]:
    """List the tensors of a decoder, without prefix and output head.

    Args:
        num_layers: Number of layers of the decoder.
        attention: Names of the tensors of a layer's attention, below `self_attn`.
    """
    layer = [
        "input_layernorm.weight",
        "post_attention_layernorm.weight",
        *(f"self_attn.{name}" for name in attention),
        *(f"mlp.{name}_proj.weight" for name in ("gate", "up", "down")),
    ]
    return [
        "embed_tokens.weight",
        *(f"layers.{index}.{name}" for index in range(num_layers) for name in layer),
        "norm.weight",
    ]
