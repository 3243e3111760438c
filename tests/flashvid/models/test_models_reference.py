"""The Qwen2.5-VL handle against recorded outputs of the published implementation with the real model class."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from flashvid.config import CompressionConfig
from flashvid.models import VideoModel, VisualFeatures, load_model, resolve_model
from flashvid.models.qwen.qwen2_5_vl.vision import QwenVision
from tests.oracles.reference import REFERENCE, load_vector
from tests.oracles.reference_e2e import compare_inputs, compare_run, qwen2_5_vl_run

E2E = REFERENCE / "e2e"
COMPRESSED = ("qwen2_5_vl_r0.25_v1", "qwen2_5_vl_r0.25_v2")
SUPPRESSED = 511  # the reference suppresses this token, so that every run has 16 tokens
GRID = (5, 16, 24)

pytestmark = pytest.mark.skipif(
    not E2E.is_dir(), reason=f"reference vectors are not at {E2E}; set FLASHVID_REFERENCE to the folder that holds e2e/"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    """Return the reference's model, with the embedded model's tokenizer; prompts are passed as ids here."""
    folder = tmp_path_factory.mktemp("reference") / "model"
    shutil.copytree(resolve_model("tiny-random").path, folder)
    config = json.loads((E2E / "qwen2_5_vl_config.json").read_text())
    config["architectures"] = ["Qwen2_5_VLForConditionalGeneration"]
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(E2E / "qwen2_5_vl_weights.safetensors", folder / "model.safetensors")
    return load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def inputs() -> dict[str, Tensor]:
    """Return the inputs of the reference."""
    return load_file(E2E / "qwen2_5_vl_inputs.safetensors")


@pytest.fixture(scope="module")
def visual(model: VideoModel, inputs: dict[str, Tensor]) -> VisualFeatures:
    """Return the result of our vision side on these inputs."""
    vision = model.vision
    assert isinstance(vision, QwenVision)
    found = vision.encode_patches(inputs["pixel_values_videos"], GRID)
    # Timestamps whose mean distance gives the reference's seconds per step.
    step_s = float(inputs["second_per_grid_ts"])
    return VisualFeatures(found.features, found.scores, GRID, np.arange(2 * GRID[0]) * step_s / 2)


@pytest.mark.parametrize("name", COMPRESSED)
def test_features_and_scores(visual: VisualFeatures, name: str) -> None:
    """In reading order, values match to 1e-4; scores of a step add up to a quarter."""
    expected = load_vector(E2E / f"{name}.safetensors").tensors
    assert torch.allclose(visual.features, expected["vision_features"], rtol=0, atol=1e-4)
    # Scores are around 1 / 384, so the tolerance is relative.
    assert torch.allclose(visual.scores, expected["attention_scores"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", COMPRESSED)
def test_compression_of_our_own_features(model: VideoModel, visual: VisualFeatures, name: str) -> None:
    """The kept tokens match from pixels on."""
    vector = load_vector(E2E / f"{name}.safetensors")
    settings = {key: value for key, value in vector.params.items() if key in CompressionConfig.model_fields}
    compressed = model.compress(visual, CompressionConfig(**settings, reference_compatible=True))
    assert compressed.indices.tolist() == vector.tensors["kept_indices"].tolist()
    assert compressed.segment_lengths == tuple(vector.tensors["segment_lengths"].tolist())
    assert torch.allclose(compressed.tokens, vector.tensors["compressed_tokens"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["qwen2_5_vl_plain", *COMPRESSED])
def test_what_the_language_model_receives_and_prunes(name: str) -> None:
    """Embeddings and M-RoPE positions of a prompt, and the tokens kept by inner pruning, match exactly."""
    vector = load_vector(E2E / f"{name}.safetensors")
    assert compare_inputs(qwen2_5_vl_run(E2E, vector), vector.tensors) is None


@pytest.mark.parametrize("name", ["qwen2_5_vl_plain", *COMPRESSED])
def test_generation(name: str) -> None:
    """Ids match over 16 steps, logits to 1e-3, and so do the numbers of cached tokens of each layer."""
    vector = load_vector(E2E / f"{name}.safetensors")
    assert compare_run(qwen2_5_vl_run(E2E, vector), vector.tensors) is None
