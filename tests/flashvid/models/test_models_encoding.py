"""The handle on the embedded model: encoding, attention scores, compression."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.vision_utils import get_vision_window_index

from flashvid.config import CompressionConfig
from flashvid.errors import InvalidFeaturesError
from flashvid.models import CompressedVideo, VideoModel, VisualFeatures, load_model
from flashvid.models.qwen.qwen2_5_vl.vision import QwenVision, window_order
from flashvid.models.qwen.qwen_preprocess import QwenFramePreprocessor
from tests.support.embedded_model import GENERATION, QUESTIONS, TIMES, TINY, video


def test_what_the_handle_says_of_itself(model: VideoModel) -> None:
    assert (model.family, model.hidden_size) == ("qwen2_5_vl", 96)
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_shapes_of_visual_features(model: VideoModel, count: int) -> None:
    """A step has two frames, an odd last frame makes a step, and timestamps are those of the frames."""
    found = model.encode(video(1, count), TIMES[:count])
    steps = math.ceil(count / 2)
    assert found.grid_thw[0] == steps
    num_tokens = found.grid_thw[1] * found.grid_thw[2] // 4
    assert found.features.shape == (steps, num_tokens, 96)
    assert found.scores.shape == (steps, num_tokens)
    assert (found.features.dtype, found.scores.dtype) == (torch.float32, torch.float32)
    assert found.frame_timestamps.tolist() == TIMES[:count].tolist()


def test_encoding_is_deterministic_and_changes_nothing(model: VideoModel, visual: VisualFeatures) -> None:
    """Arrays and tensors, raw and resized, read-only and writable, give the same bytes."""
    frames, times = video(0), TIMES.copy()
    frames.flags.writeable = False
    preprocessor = QwenFramePreprocessor.load(TINY, min_pixels=None, max_pixels=None)
    for given in (frames, torch.from_numpy(video(0)), preprocessor.resize(frames)):
        again = model.encode(given, times)
        assert torch.equal(again.features, visual.features)
        assert torch.equal(again.scores, visual.scores)
    assert np.array_equal(frames, video(0))
    times[0] = 99
    assert model.encode(frames, TIMES.tolist()).frame_timestamps[0] == 0


def test_scores_are_shares_of_attention(visual: VisualFeatures) -> None:
    """Scores are positive, and those of a step add up to a quarter: each is the mean over four patches."""
    assert (visual.scores > 0).all()
    assert torch.allclose(visual.scores.sum(dim=1), torch.full((3,), 0.25), atol=1e-6)


def test_scores_are_the_last_blocks_softmax(model: VideoModel, visual: VisualFeatures) -> None:
    """Scores of one step match whole attention matrices, averaged over heads, queries and a token's patches."""
    stock = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        TINY.path, dtype=torch.float32, attn_implementation="eager"
    )
    block = stock.model.visual.blocks[-1]
    seen: dict[str, Any] = {}
    hook = block.register_forward_pre_hook(lambda _, given, kept: seen.update(kept, hidden=given[0]), with_kwargs=True)
    patches, grid = QwenFramePreprocessor.load(TINY, min_pixels=None, max_pixels=None).patches(
        model.vision._preprocessor.resize(video(0)),  # type: ignore[attr-defined]
        torch.device("cpu"),
    )
    with torch.no_grad():
        stock.model.visual(patches, grid_thw=torch.tensor([grid]))
        qkv = block.attn.qkv(block.norm1(seen["hidden"]))
    hook.remove()
    per_step, heads, width = grid[1] * grid[2], 4, 16
    cos, sin = (part[per_step : 2 * per_step] for part in seen["position_embeddings"])
    probabilities = torch.zeros(heads, per_step, per_step)
    for head in range(heads):
        query, key = (
            qkv[per_step : 2 * per_step, kind * 64 + head * width : kind * 64 + (head + 1) * width] for kind in (0, 1)
        )
        query, key = (turned(part, cos, sin) for part in (query, key))
        probabilities[head] = (query @ key.T / math.sqrt(width)).softmax(dim=-1)
    in_windows = probabilities.mean(dim=(0, 1)).reshape(-1, 4).mean(dim=1)
    order, _ = get_vision_window_index(torch.tensor([grid]), spatial_merge_size=2, window_size=64, patch_size=8)
    step = order[per_step // 4 : per_step // 2] - per_step // 4
    assert torch.allclose(visual.scores[1], in_windows[step.argsort()], atol=1e-7)


def turned(part: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply a rotary embedding to `[P, d]`."""
    half = part.shape[1] // 2
    return part * cos + torch.cat([-part[:, half:], part[:, :half]], dim=1) * sin


@pytest.mark.parametrize("grid", [(1, 2, 2), (3, 12, 22), (2, 16, 16), (2, 18, 4), (1, 6, 50)])
def test_window_order_is_transformers_own(grid: tuple[int, int, int]) -> None:
    """Windows need not divide the frame."""
    expected, _ = get_vision_window_index(torch.tensor([grid]), spatial_merge_size=2, window_size=64, patch_size=8)
    assert torch.equal(window_order(grid, merge_size=2, window=4), torch.as_tensor(expected))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations_agree(
    visual: VisualFeatures, compressed: CompressedVideo, model: VideoModel, implementation: str
) -> None:
    """Features and answers agree; scores are computed by this library with every implementation."""
    other = load_model(TINY, dtype="float32", device="cpu", attn_implementation=implementation)
    assert isinstance(other.vision, QwenVision)
    assert other.vision._tower.config._attn_implementation == implementation
    found = other.encode(video(0), TIMES)
    assert torch.allclose(found.features, visual.features, atol=1e-4)
    assert torch.allclose(found.scores, visual.scores, atol=1e-7)
    assert other.answer(compressed, QUESTIONS, GENERATION) == model.answer(compressed, QUESTIONS, GENERATION)


def test_a_long_video_is_encoded_block_by_block(model: VideoModel) -> None:
    """Steps in several blocks get the features and scores that each gets alone."""
    frames = video(3, count=39)
    whole = model.encode(frames, np.arange(39.0))
    assert whole.grid_thw[0] == 20
    for step in (0, 15, 16, 19):
        alone = model.encode(frames[2 * step : 2 * step + 2], np.arange(39.0)[2 * step : 2 * step + 2])
        assert torch.allclose(whole.features[step], alone.features[0], atol=1e-4)
        assert torch.allclose(whole.scores[step], alone.scores[0], atol=1e-7)


@pytest.mark.parametrize(
    ("frames", "times", "message"),
    [
        (np.zeros((2, 32, 32, 3), dtype=np.float32), [0, 1], "frames must be uint8"),
        (np.zeros((2, 3, 32, 32), dtype=np.uint8), [0, 1], r"frames must be uint8 \[F, H, W, 3\]"),
        (np.zeros((0, 32, 32, 3), dtype=np.uint8), [], "frames must be"),
        (video(0), [0.0, 1.0], "6 frames need as many timestamps"),
        (video(0), [0, 1, 2, math.nan, 4, 5], "finite"),
        (video(0), [0, 1, 2, 1, 4, 5], "not descend"),
        (np.zeros((2, 1, 300, 3), dtype=np.uint8), [0, 1], "300 x 1 are too long and thin"),
    ],
)
def test_frames_that_can_not_be_encoded(model: VideoModel, frames: Any, times: Any, message: str) -> None:
    """Each case is a permanent error that names its cause."""
    with pytest.raises(InvalidFeaturesError, match=message):
        model.encode(frames, times)


@pytest.mark.parametrize("config", [None, CompressionConfig(retention_ratio=1.0)])
def test_all_tokens_kept(model: VideoModel, visual: VisualFeatures, config: CompressionConfig | None) -> None:
    """Without compression, and at a retention ratio of 1, every token keeps its index."""
    found = model.compress(visual, config)
    assert torch.equal(found.tokens, visual.features.flatten(0, 1))
    assert found.indices.tolist() == found.assignment.tolist() == list(range(visual.scores.numel()))
    assert sum(found.segment_lengths) == 3


def test_a_quarter_kept(compressed: CompressedVideo, visual: VisualFeatures) -> None:
    """The tokens are those of `flashvid.compress`, with what answering needs of the video."""
    assert visual.scores.numel() / 4 <= len(compressed.tokens) <= visual.scores.numel() / 4 + 2 * 3
    assert compressed.grid_thw == visual.grid_thw
    assert compressed.frame_timestamps is visual.frame_timestamps
