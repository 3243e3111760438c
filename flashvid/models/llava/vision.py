"""The vision side of LLaVA: SigLIP without its last layer, projector, pooling, and attention scores."""

from typing import Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.models.siglip.modeling_siglip import SiglipAttention, SiglipEncoder, SiglipVisionEmbeddings

from flashvid.models.family import LoadOptions
from flashvid.models.llava.layouts import tower_tensors
from flashvid.models.llava.preprocess import LlavaFramePreprocessor
from flashvid.models.llava.settings import LlavaSettings, Pooling
from flashvid.models.modules import transformers_config, without_memory
from flashvid.models.source import ModelSource
from flashvid.models.vision import EncodedSteps, VisionTower, received_attention
from flashvid.models.weights import Checkpoint


class LlavaVision(VisionTower[LlavaFramePreprocessor]):
    """Vision tower, projector and pooling."""

    def __init__(
        self,
        embeddings: SiglipVisionEmbeddings,
        encoder: SiglipEncoder,
        projector: nn.Sequential,
        preprocessor: LlavaFramePreprocessor,
        pooling: Pooling,
    ) -> None:
        super().__init__(preprocessor, embeddings.patch_embedding.weight, frames_per_step=1)
        self._embeddings = embeddings
        self._encoder = encoder
        self._projector = projector
        self._pooling: Pooling = pooling

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the vision side, and no other tensor.

        Raises:
            ModelLoadError: The configuration or tensors do not fit.
            ConfigurationError: The attention implementation is unknown, or bounds of the area are set.
        """
        preprocessor = LlavaFramePreprocessor.load(source, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
        settings = LlavaSettings.parse(source.config())
        layout = settings.layout(checkpoint.files)
        # The tower's pooling head is not used.
        fields = {**settings.vision, "vision_use_head": False}
        config = transformers_config(SiglipVisionConfig, fields, source, options)
        names = tower_tensors(config.num_hidden_layers)
        tower = without_memory(SiglipVisionModel, config)
        # Features are the output of the last used layer, so the tower's norm and pooling after it are not read.
        used = nn.ModuleDict({"embeddings": tower.embeddings, "encoder": tower.encoder})
        checkpoint.fill(used, checkpoint.read(layout.tower, names, options.dtype, options.device), "vision tower")
        # Position ids are computed, not stored, so a module on the meta device lacks them.
        numbers = torch.arange(tower.embeddings.num_positions, device=options.device).unsqueeze(0)
        tower.embeddings.position_ids = nn.Buffer(numbers, persistent=False)

        projector = without_memory(_make_projector, (config.hidden_size, settings.text["hidden_size"]))
        stored = checkpoint.read(layout.projector, layout.projector_tensors(), options.dtype, options.device)
        # The linear layers are 0 and 2 here, with the activation in between; layouts name them differently.
        weights = {
            new: stored[old] for new, old in zip(projector.state_dict(), layout.projector_tensors(), strict=True)
        }
        checkpoint.fill(projector, weights, "projector")
        return cls(tower.embeddings, tower.encoder.train(False), projector.train(False), preprocessor, settings.pooling)

    def encode_resized(self, frames: NDArray[np.uint8]) -> EncodedSteps:
        """See `VisionTower`: every frame is a temporal step."""
        return self.encode_pictures(self._preprocessor.pictures(frames, self._device))

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> EncodedSteps:
        """Encode normalised frames in one block.

        Args:
            pictures: `[F, 3, H, W]` floating, as `LlavaFramePreprocessor.pictures` returns them.

        Returns:
            Features `[F, N, D]` and scores `[F, N]`. Scores are pooled like features, so they do not add up to 1
            (docs/flashvid.md, section 7). The grid counts tokens, not patches: 27 x 27 patches become 14 x 14 or
            13 x 13 tokens.
        """
        attention = cast("SiglipAttention", self._encoder.layers[-1].self_attn)
        with self._calls_of(attention) as call:
            hidden: Tensor = self._encoder(self._embeddings(pictures.to(self.dtype))).last_hidden_state
        projected = (layer(call["hidden_states"]) for layer in (attention.q_proj, attention.k_proj))
        queries, keys = (part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected)
        received = received_attention(queries, keys, attention.scale)
        features = pool(self._projector(hidden), self._pooling)
        side = round(features.shape[1] ** 0.5)
        return EncodedSteps(features, pool(received.unsqueeze(-1), self._pooling).squeeze(-1), (side, side))


def pool(patches: Tensor, pooling: Pooling) -> Tensor:
    """Pool a square of patches by two in both directions.

    Args:
        patches: `[F, P, D]` of P = side * side patches in reading order, floating.
        pooling: "bilinear" rounds an odd side up, "average" omits its last row and column.

    Returns:
        `[F, N, D]`.
    """
    side = round(patches.shape[1] ** 0.5)
    pictures = patches.reshape(len(patches), side, side, -1).permute(0, 3, 1, 2)
    if pooling == "average":
        pooled = functional.avg_pool2d(pictures, 2)
    else:
        half = (side + 1) // 2
        pooled = functional.interpolate(pictures, size=(half, half), mode="bilinear")
    return pooled.permute(0, 2, 3, 1).flatten(1, 2)


def _make_projector(widths: tuple[int, int]) -> nn.Sequential:
    vision, text = widths
    return nn.Sequential(nn.Linear(vision, text), nn.GELU(), nn.Linear(text, text))
