"""Weights passed from one stage to the next, and finally into a model directory."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from jobs.lab.tiny_model.rendering import render
from jobs.lab.tiny_model.scenes import make_scene
from jobs.lab.tiny_model.training_config import write_tiny
from jobs.lab.tiny_model.vision_stage import VisionStage, encode_steps

# Relative to word embeddings of 0.1: much larger features drown the text at first.
_FEATURE_RMS = 0.25
_MEASURED_CLIPS = 16


def freeze_vision(stage: VisionStage, target: Path) -> None:
    """Write the trained vision side as the language side will see it: at a fixed scale, rounded to bfloat16."""
    with torch.no_grad():
        frames = [render(make_scene("train", clip, 8)) for clip in range(_MEASURED_CLIPS)]
        loudness = torch.cat([encode_steps(stage.tower, clip) for clip in frames]).pow(2).mean().sqrt()
        for parameter in cast("nn.Linear", stage.tower.merger.mlp[2]).parameters():
            parameter.mul_(_FEATURE_RMS / loudness)
        for parameter in stage.tower.parameters():
            parameter.copy_(parameter.bfloat16())
    partial = target.with_suffix(".partial")
    torch.save(stage.module.state_dict(), partial)
    partial.replace(target)


def export(frozen: Path, language: Path, folder: Path) -> int:
    """Write a model directory from the frozen vision side and a state of the language side.

    Returns:
        Training steps of the language side.
    """
    state: dict[str, Any] = torch.load(language, weights_only=True)
    weights: dict[str, Tensor] = {}
    for prefix, name, module in (
        ("tower.", "model.visual.", torch.load(frozen, weights_only=True)),
        ("decoder.", "model.language_model.", state["module"]),
    ):
        weights |= {name + key.removeprefix(prefix): value for key, value in module.items() if key.startswith(prefix)}
    write_tiny(folder, weights)
    return int(state["step"])
