"""The vision side of LLaVA: SigLIP without its last layer, projector, pooling, and the attention received (spec 7)."""

from __future__ import annotations

from threading import Lock
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import SiglipVisionModel
from transformers.models.siglip.modeling_siglip import SiglipAttention, SiglipEncoder, SiglipVisionEmbeddings

from flashvid.engine.types import VisualFeatures
from flashvid.models.family import LoadOptions
from flashvid.models.llava.configs import tower_config
from flashvid.models.llava.layouts import find_layout, tower_tensors
from flashvid.models.llava.preprocess import LlavaFramePreprocessor
from flashvid.models.llava.settings import LlavaSettings, Pooling
from flashvid.models.source import ModelSource
from flashvid.models.vision import EncodedSteps, encode_in_blocks, received_attention, without_memory
from flashvid.models.weights import Checkpoint

# Frames do not see each other, so they go through the tower in blocks with the same result.
_FRAMES_AT_ONCE = 16


class LlavaVision:
    """Vision tower, projector and pooling."""

    def __init__(
        self,
        embeddings: SiglipVisionEmbeddings,
        encoder: SiglipEncoder,
        projector: nn.Sequential,
        preprocessor: LlavaFramePreprocessor,
        pooling: Pooling,
    ) -> None:
        self._embeddings = embeddings
        self._encoder = encoder
        self._projector = projector
        self._preprocessor = preprocessor
        self._pooling: Pooling = pooling
        self._running = Lock()
        self._device = embeddings.patch_embedding.weight.device
        self.dtype = embeddings.patch_embedding.weight.dtype

    @classmethod
    def load(cls, source: ModelSource, checkpoint: Checkpoint, options: LoadOptions) -> Self:
        """Read the tensors of the vision side, and only those.

        Raises:
            ModelLoadError: tensors that do not fit.
            ConfigurationError: an attention implementation that there is not, bounds of the area.
        """
        preprocessor = LlavaFramePreprocessor.load(source, min_pixels=options.min_pixels, max_pixels=options.max_pixels)
        settings = LlavaSettings.parse(source.config())
        layout = find_layout(checkpoint.files, settings.default_layout)
        config = tower_config(source, settings, options)
        names = tower_tensors(config.num_hidden_layers)
        tower = without_memory(SiglipVisionModel, config)
        # Features are what the last used layer gives: nothing normalises or pools them, and that need not be read.
        used = nn.ModuleDict({"embeddings": tower.embeddings, "encoder": tower.encoder})
        checkpoint.fill(used, checkpoint.read(layout.tower, names, options.dtype, options.device), "vision tower")
        # Numbered, not stored, so the module without memory has none.
        numbers = torch.arange(tower.embeddings.num_positions, device=options.device).unsqueeze(0)
        tower.embeddings.position_ids = nn.Buffer(numbers, persistent=False)

        widths = (config.hidden_size, settings.text["hidden_size"])
        projector = without_memory(lambda widths: nn.Sequential(*_projector_layers(*widths)), widths)
        stored = checkpoint.read(layout.projector, layout.projector_tensors(), options.dtype, options.device)
        # The activation is number 1; the two layouts name the linear layers on its sides differently.
        weights = {
            new: stored[old] for new, old in zip(projector.state_dict(), layout.projector_tensors(), strict=True)
        }
        checkpoint.fill(projector, weights, "projector")
        return cls(tower.embeddings, tower.encoder.train(False), projector.train(False), preprocessor, settings.pooling)

    def encode(self, frames: NDArray[np.uint8], timestamps: NDArray[np.float64]) -> VisualFeatures:
        """Frames uint8 `[F, H, W, 3]` of any size, with seconds `[F]`, to visual features.

        Every frame is a temporal step. `grid_thw` counts tokens, not patches: 27 x 27 patches make 14 x 14 or 13 x 13.
        """

        def block(first: int, end: int) -> EncodedSteps:
            resized = self._preprocessor.resize(frames[first:end])
            return self.encode_pictures(self._preprocessor.pictures(resized, self._device))

        found = encode_in_blocks(len(frames), _FRAMES_AT_ONCE, block)
        side = round(found.features.shape[1] ** 0.5)
        return VisualFeatures(found.features, found.scores, (len(frames), side, side), timestamps)

    @torch.no_grad()
    def encode_pictures(self, pictures: Tensor) -> EncodedSteps:
        """Pictures to features and scores, all at once.

        Args:
            pictures: `[F, 3, H, W]` floating, as `LlavaFramePreprocessor.pictures` makes them.

        Returns:
            Features `[F, N, D]` and scores `[F, N]`, pooled alike, so that scores do not add up to 1 any more.
        """
        captured: dict[str, Tensor] = {}

        def capture(_: nn.Module, __: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            captured.update(hidden=keywords["hidden_states"])

        attention = cast("SiglipAttention", self._encoder.layers[-1].self_attn)
        # Its input is caught while the tower runs: one clip at a time.
        with self._running:
            hook = attention.register_forward_pre_hook(capture, with_kwargs=True)
            try:
                hidden: Tensor = self._encoder(self._embeddings(pictures.to(self.dtype))).last_hidden_state
            finally:
                hook.remove()
        queries, keys = (
            _heads(layer(captured["hidden"]), attention.num_heads) for layer in (attention.q_proj, attention.k_proj)
        )
        received = received_attention(queries, keys, attention.scale)
        features = pool(self._projector(hidden), self._pooling)
        return EncodedSteps(features, pool(received.unsqueeze(-1), self._pooling).squeeze(-1))


def pool(patches: Tensor, pooling: Pooling) -> Tensor:
    """Pool a square of patches by two in both directions.

    Args:
        patches: `[F, P, D]` of P = side * side patches in reading order, floating.
        pooling: "bilinear" rounds an odd side up, "average" leaves its last row and column out.

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


def _heads(projected: Tensor, heads: int) -> Tensor:
    return projected.reshape(*projected.shape[:2], heads, -1).transpose(1, 2)


def _projector_layers(vision_width: int, text_width: int) -> tuple[nn.Module, ...]:
    return nn.Linear(vision_width, text_width), nn.GELU(), nn.Linear(text_width, text_width)
