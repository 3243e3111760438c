"""Preprocessing of every family against Hugging Face's own video processors, which need torchvision.

`pip install --no-deps --target DIR torchvision==0.28.0`, then set FLASHVID_TORCHVISION=DIR; skipped without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flashvid.models.llava.preprocess import LlavaFramePreprocessor
from flashvid.models.qwen.qwen3_vl.preprocess import Qwen3FramePreprocessor
from flashvid.models.qwen.qwen_preprocess import QwenFramePreprocessor
from tests.support.hugging_face_processors import noise

TORCHVISION = os.environ.get("FLASHVID_TORCHVISION", "")
CPU = torch.device("cpu")
# Count, height, width: even and odd, square, tall, wide, smaller and larger than the target, single frames.
SHAPES = [
    (2, 64, 64),
    (3, 101, 57),
    (1, 33, 217),
    (5, 240, 427),
    (4, 719, 1281),
    (7, 331, 97),
    (6, 30, 45),
    (2, 384, 384),
]
QWEN = {"size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 200 * 28 * 28}}
QWEN3 = {"size": {"shortest_edge": 4096, "longest_edge": 500 * 32 * 32}}
HALF = [0.5, 0.5, 0.5]

pytestmark = pytest.mark.skipif(
    not (Path(TORCHVISION) / "torchvision").is_dir(), reason="FLASHVID_TORCHVISION names no folder with torchvision"
)


def cases() -> list[dict[str, Any]]:
    """Return every family with every shape."""
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("llava", "LlavaOnevisionVideoProcessor", {"image_mean": HALF, "image_std": HALF}),
        ("qwen2_5_vl", "Qwen2VLVideoProcessor", QWEN),
        ("qwen3_vl", "Qwen3VLVideoProcessor", {**QWEN3, "cap_pixels_per_frame": False}),
        ("qwen3_vl", "Qwen3VLVideoProcessor", {**QWEN3, "cap_pixels_per_frame": True, "max_video_tokens": 40}),
    ]
    return [
        {"family": family, "processor": processor, "settings": settings, "frames": shape, "seed": seed}
        for family, processor, settings in kinds
        for seed, shape in enumerate(SHAPES)
        # Transformers' Qwen3 processor refuses a single frame; ours fills its step.
        if family != "qwen3_vl" or shape[0] > 1
    ]


CASES = cases()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.float32]]:
    """Return the results of transformers' processors on all cases, from one other process."""
    folder = tmp_path_factory.mktemp("processors")
    (folder / "cases.json").write_text(json.dumps(CASES))
    path = os.pathsep.join([str(Path(__file__).parents[3]), TORCHVISION])
    command = [sys.executable, "-m", "tests.support.hugging_face_processors", str(folder / "cases.json"), str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    return [np.load(folder / f"{number}.npy") for number in range(len(CASES))]


def ours(case: dict[str, Any]) -> tuple[torch.Tensor, tuple[float, ...]]:
    """Return our pixels, and the deviations that they were divided by."""
    frames, settings = noise(*case["frames"], case["seed"]), case["settings"]
    if case["family"] == "llava":
        llava = LlavaFramePreprocessor(384, 384, 14)
        return llava.pictures(llava.resize(frames), CPU), llava.image_std
    low, high = settings["size"]["shortest_edge"], settings["size"]["longest_edge"]
    if case["family"] == "qwen2_5_vl":
        qwen = QwenFramePreprocessor(14, 2, 2, low, high)
    else:
        cap = {
            "cap_frames": settings["cap_pixels_per_frame"],
            "max_frame_tokens": settings.get("max_video_tokens", 768),
        }
        qwen = Qwen3FramePreprocessor(16, 2, 2, low, high, **cap)
    return qwen.patches(qwen.resize(frames), CPU)[0], qwen.image_std


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: f"{CASES[number]['family']}-{number}")
def test_within_one_step_of_a_byte(theirs: list[NDArray[np.float32]], number: int) -> None:
    """Shapes are equal, no value differs by more than one of 256 steps, and most values are equal."""
    pixels, deviation = ours(CASES[number])
    expected = torch.from_numpy(theirs[number]).reshape(pixels.shape)
    error = (pixels - expected).abs()
    assert float(error.max()) <= 1.001 / 255 / min(deviation)
    assert float((error > 1e-5).float().mean()) < 0.01
