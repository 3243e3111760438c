"""The two halves of a Qwen vision language model's configuration, typed and checked."""

from __future__ import annotations

from typing import Any, TypeVar

from transformers import PreTrainedConfig

from flashvid.engine.types import LoadOptions
from flashvid.errors import ModelLoadError
from flashvid.models.source import ModelSource

Vision = TypeVar("Vision", bound=PreTrainedConfig)
Text = TypeVar("Text", bound=PreTrainedConfig)


def load_halves(
    kind: type[PreTrainedConfig], halves: tuple[type[Vision], type[Text]], source: ModelSource, options: LoadOptions
) -> tuple[Vision, Text]:
    """Read config.json; both halves get the attention implementation that was asked for.

    Args:
        kind: Transformers' class of the whole.
        halves: Of its vision and its text part.
        source: The model.
        options: How to load it.

    Raises:
        ModelLoadError: transformers refuses it; says why.
    """
    chosen: dict[str, Any] = {}
    if options.attn_implementation is not None:
        chosen["attn_implementation"] = options.attn_implementation
    try:
        config: Any = kind.from_pretrained(source.path, local_files_only=True, **chosen)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelLoadError(f"config.json makes no {kind.__name__}: {error}", str(source.path)) from None
    vision, text = config.vision_config, config.text_config
    if not isinstance(vision, halves[0]) or not isinstance(text, halves[1]):
        raise ModelLoadError("config.json lacks vision_config or text_config", str(source.path))
    return vision, text
