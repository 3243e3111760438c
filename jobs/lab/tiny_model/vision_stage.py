"""Stage 1: the vision side alone. Every visual token learns to name what it shows."""

from dataclasses import fields
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

from flashvid.models.qwen.qwen_preprocess import QwenFramePreprocessor
from jobs.lab.tiny_model.labels import (
    COLOUR_NAMES,
    MOTION_NAMES,
    SHAPE_NAMES,
    TOKENS_PER_STEP,
    TokenLabels,
    label_tokens,
)
from jobs.lab.tiny_model.loop import PARTS, Metrics, Schedule
from jobs.lab.tiny_model.rendering import Frames, render, through_codec
from jobs.lab.tiny_model.scenes import FRAME_SIZE, FRAMES_PER_STEP, Scene, Split, clip_rng, make_crowd, make_scene
from jobs.lab.tiny_model.training_config import HIDDEN_SIZE, MERGE_SIZE, PATCH_SIZE, build_model

PREPROCESSOR = QwenFramePreprocessor(
    patch_size=PATCH_SIZE,
    merge_size=MERGE_SIZE,
    temporal_patch_size=FRAMES_PER_STEP,
    min_pixels=FRAME_SIZE**2,
    max_pixels=FRAME_SIZE**2,
)
_SEED = 1
_PART = 32
_CHECKED = 128
# Natural clips are nearly all background: they teach little at first, and the look of real frames later.
_NATURAL_FROM = 0.6
_NOTHING_WEIGHT = 0.2
_SPARSE_SHARE = 0.3


class VisionHeads(nn.Module):
    """A linear reading of each token, discarded after training except for the words' first embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.colour = nn.Linear(HIDDEN_SIZE, len(COLOUR_NAMES))
        self.shape = nn.Linear(HIDDEN_SIZE, len(SHAPE_NAMES))
        self.motion = nn.Linear(HIDDEN_SIZE, len(MOTION_NAMES))
        self.centre = nn.Linear(HIDDEN_SIZE, 1)
        self.offset = nn.Linear(HIDDEN_SIZE, 2)
        self.backdrop = nn.Linear(HIDDEN_SIZE, 3)


class VisionStage:
    """See `jobs.lab.tiny_model.loop.Stage`."""

    name = "vision"

    def __init__(self, schedule: Schedule) -> None:
        torch.manual_seed(_SEED)
        self.schedule = schedule
        self.tower = cast("Qwen2_5_VisionTransformerPretrainedModel", build_model().model.visual)
        _widen(self.tower)
        self.heads = VisionHeads()
        self.module = nn.ModuleDict({"tower": self.tower, "heads": self.heads})

    def loss(self, step: int, part: int) -> tuple[Tensor, Metrics]:
        """See `Stage`."""
        natural = 0.5 if step >= _NATURAL_FROM * self.schedule.steps else 0.0
        first = (step * PARTS + part) * _PART
        return self._measure("train", range(first, first + _PART), natural)

    @torch.no_grad()
    def check(self) -> Metrics:
        """See `Stage`: on steps of natural clips."""
        _, metrics = self._measure("held-out", range(_CHECKED), natural=1.0)
        asked = {name.removesuffix("_asked"): value for name, value in metrics.items() if name.endswith("_asked")}
        return {name: metrics[f"{name}_right"] / count for name, count in asked.items()}

    def _measure(self, split: Split, indices: range, natural: float) -> tuple[Tensor, Metrics]:
        rng = clip_rng(split, indices.start, purpose=2)
        examples = [_example(split, index, natural > rng.random()) for index in indices]
        frames = np.concatenate([pair for pair, _ in examples])
        if rng.random() < 0.8:
            frames = through_codec(frames, rng)
        labels = _batched([label for _, label in examples])
        features = self.tower(*_patches(frames)).pooler_output
        features = cast("Tensor", features).view(len(examples), TOKENS_PER_STEP, HIDDEN_SIZE)
        return _loss(self.heads, features, labels)


def encode_steps(tower: nn.Module, frames: Frames) -> Tensor:
    """Return the visual features of whole steps, `[T, N, D]`."""
    features = cast("Tensor", tower(*_patches(frames)).pooler_output)
    return features.view(-1, TOKENS_PER_STEP, HIDDEN_SIZE)


def _patches(frames: Frames) -> tuple[Tensor, Tensor]:
    patches, grid_thw = PREPROCESSOR.patches(frames, torch.device("cpu"))
    return patches, torch.tensor([grid_thw])


def _widen(tower: nn.Module) -> None:
    """Widen the weights: transformers' 0.02 is for wide layers, and these are narrow."""
    for module in tower.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)


def _example(split: Split, index: int, natural: bool) -> tuple[Frames, TokenLabels]:
    """Return the frames of one step, and its labels."""
    if not natural:
        crowd = make_crowd(split, index)
        return render(crowd), label_tokens(crowd)
    rng = clip_rng(split, index, purpose=3)
    scene: Scene = make_scene(split, index, int(rng.choice((1, 4, 8, 16))))
    first, gap = 2 * int(rng.integers(scene.steps)), 1
    if rng.random() < _SPARSE_SHARE:
        # Frames as other samplings take them: things appear, vanish or jump between the two.
        gap = int(rng.choice((1, 2, 3, 5, 8, 11)))
        first = int(rng.integers(max(1, scene.num_frames - gap)))
    frames = np.minimum([first, first + gap], scene.num_frames - 1)
    return render(scene, frames), label_tokens(scene, frames)


def _batched(labels: list[TokenLabels]) -> dict[str, Tensor]:
    names = [field.name for field in fields(TokenLabels)]
    return {name: torch.from_numpy(np.concatenate([getattr(label, name) for label in labels])) for name in names}


def _loss(heads: VisionHeads, features: Tensor, labels: dict[str, Tensor]) -> tuple[Tensor, Metrics]:
    shown = labels["colour"] < len(COLOUR_NAMES) - 1
    total, metrics = torch.zeros(()), cast("Metrics", {})
    for name, head in (("colour", heads.colour), ("shape", heads.shape), ("motion", heads.motion)):
        logits = head(features).flatten(0, 1)
        wanted = labels[name].flatten()
        weight = torch.ones(logits.shape[-1])
        weight[-1] = _NOTHING_WEIGHT
        total = total + functional.cross_entropy(logits, wanted, weight)
        right = (logits.argmax(dim=-1) == wanted).view_as(shown)
        metrics |= {f"{name}_right": float(right[shown].sum()), f"{name}_asked": float(shown.sum())}
    centre = heads.centre(features)[..., 0]
    total = total + functional.binary_cross_entropy_with_logits(centre, labels["centre"])
    total = total + (heads.offset(features) - labels["offset"]).abs()[shown].mean()
    total = total + (heads.backdrop(features) - labels["backdrop"]).abs()[~shown].mean()
    # A centre counts as found if it is the only token of its thing that is taken for one.
    hits = (centre > 0) == (labels["centre"] > 0)
    metrics |= {"centre_right": float(hits[shown].sum()), "centre_asked": float(shown.sum())}
    return total, metrics
