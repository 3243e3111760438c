"""The embedded model on small videos: constants and fixtures of the tests of the model handle."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from flashvid.config import CompressionConfig
from flashvid.models import CompressedVideo, GenerationConfig, VideoModel, VisualFeatures, load_model, resolve_model

TINY = resolve_model("tiny-random")
QUESTIONS = ("What happens here?", "How many objects are there?", "Which colour moves?", "")
TIMES = np.arange(6) / 2
QUARTER = CompressionConfig(retention_ratio=0.25)
GENERATION = GenerationConfig(max_new_tokens=12)


@pytest.fixture(scope="session")
def model() -> VideoModel:
    """In float32, where different orders of the same sums can't change a token."""
    return load_model(TINY, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def visual(model: VideoModel) -> VisualFeatures:
    """One video, encoded."""
    return model.encode(video(0), TIMES)


@pytest.fixture(scope="session")
def compressed(model: VideoModel, visual: VisualFeatures) -> CompressedVideo:
    """The same video at a quarter of its tokens."""
    return model.compress(visual, QUARTER)


def video(seed: int, count: int = 6, height: int = 120, width: int = 220) -> NDArray[np.uint8]:
    """Coarse random frames uint8 `[count, height, width, 3]`."""
    coarse = np.random.default_rng(seed).integers(0, 256, (count, 6, 11, 3), dtype=np.uint8)
    return coarse.repeat(math.ceil(height / 6), axis=1).repeat(math.ceil(width / 11), axis=2)[:, :height, :width]
