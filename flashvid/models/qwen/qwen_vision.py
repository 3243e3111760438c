"""Base of the Qwen vision sides: tower, projector, and the attention that tokens receive."""

from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from flashvid.models.family import LoadOptions
from flashvid.models.modules import transformers_config, without_memory
from flashvid.models.qwen.qwen_family import QwenFamily
from flashvid.models.qwen.qwen_preprocess import QwenFramePreprocessor
from flashvid.models.source import ModelSource
from flashvid.models.vision import EncodedSteps, VisionTower, received_attention
from flashvid.models.weights import Checkpoint


class QwenVisionBase(VisionTower[QwenFramePreprocessor]):
    """Vision tower and projector of a Qwen family.

    Attributes:
        family: The facts of the family.
        config_class: Transformers' class of the model's configuration.
        tower_class: Transformers' class of the vision tower.
        preprocessor_class: The class that preprocesses the frames.
    """

    family: ClassVar[QwenFamily]
    config_class: ClassVar[type[PreTrainedConfig]]
    tower_class: ClassVar[type[nn.Module]]
    preprocessor_class: ClassVar[type[QwenFramePreprocessor]]

    def __init__(self, tower: nn.Module, preprocessor: QwenFramePreprocessor) -> None:
        super().__init__(preprocessor, next(tower.parameters()), preprocessor.temporal_patch_size)
        self._tower: Any = tower

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the vision side, and no other tensor.

        Raises:
            ModelLoadError: The configuration or tensors do not fit.
            ConfigurationError: The attention implementation is unknown, or the bounds of the area exclude each other.
        """
        preprocessor = cls.preprocessor_class.load(source, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
        stored = source.config()
        config: Any = transformers_config(cls.config_class, stored, source, options)
        tower: Any = without_memory(cls.tower_class, config.vision_config)
        prefix, names = cls.family.vision_prefix(checkpoint.files), cls.family.vision_tensors(stored)
        checkpoint.fill(tower, checkpoint.read(prefix, names, options.dtype, options.device), "vision side")
        # Frequencies are computed, not stored, so a module on the meta device lacks them.
        tower.rotary_pos_emb = type(tower.rotary_pos_emb)(config.vision_config).to(options.device)
        return cls(tower.train(False), preprocessor)

    def encode_resized(self, frames: NDArray[np.uint8]) -> EncodedSteps:
        """See `VisionTower`."""
        return self.encode_patches(*self._preprocessor.patches(frames, self._device))

    @torch.no_grad()
    def encode_patches(self, patches: Tensor, grid_thw: tuple[int, int, int]) -> EncodedSteps:
        """Encode patches in one block.

        Args:
            patches: `[T * rows * columns, P]` floating, as `QwenFramePreprocessor.patches` returns them.
            grid_thw: `(T, rows, columns)`, counted in patches.

        Returns:
            Features, scores and deepstack features, tokens in reading order. A score is the mean over the four patches
            of a token, so the scores of a step add up to a quarter (docs/flashvid.md, section 7).
        """
        attention = self._tower.blocks[-1].attn
        with self._calls_of(attention) as call:
            output = self._tower(patches.to(self.dtype), grid_thw=torch.tensor([grid_thw], device=patches.device))
        steps, rows, columns = grid_thw
        qkv = attention.qkv(call["given"][0]).reshape(len(patches), 3, attention.num_heads, -1)
        queries, keys, _ = qkv.permute(1, 0, 2, 3).unbind(0)
        queries, keys = apply_rotary_pos_emb_vision(queries, keys, *call["position_embeddings"])
        queries, keys = (part.reshape(steps, -1, *part.shape[1:]).transpose(1, 2) for part in (queries, keys))
        received = received_attention(queries, keys, attention.scaling)
        # The patches of a token are consecutive.
        by_token = received.reshape(-1, self._tower.spatial_merge_unit).mean(dim=-1)
        # The output of a tower without deepstack has no such field.
        parts = (output.pooler_output, *getattr(output, "deepstack_features", ()))
        features, *deepstack = (part.reshape(steps, -1, part.shape[-1]) for part in parts)
        scores = self.in_reading_order(by_token, grid_thw).reshape(steps, -1)
        return EncodedSteps(features, scores, (rows, columns), tuple(deepstack))

    def in_reading_order(self, scores: Tensor, grid_thw: tuple[int, int, int]) -> Tensor:  # noqa: ARG002
        """Return scores `[T * N]` in reading order, from the tower's order; they are equal without windows."""
        return scores
