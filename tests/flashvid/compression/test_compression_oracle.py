"""`compress` against the naive implementation, on small random videos."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from flashvid import CompressionConfig, compress
from tests.oracles.naive_compression import Ranker, UndecidedError, lowest_index_first, naive_compress


def rank_as_torch_does(values: list[float], count: int) -> list[int]:
    """Rank ties as `torch.topk` does, since the reference calls it."""
    return torch.tensor(values, dtype=torch.float32).topk(count).indices.tolist()


@st.composite
def videos(draw: st.DrawFn, scales: tuple[float, ...] = (1.0,)) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames that drift and sometimes jump, with random values, so that no decision depends on rounding."""
    num_frames, num_tokens, width = (draw(st.integers(*bounds)) for bounds in ((1, 6), (1, 9), (2, 6)))
    drift, common = draw(st.sampled_from([0.02, 0.3, 1.0])), draw(st.sampled_from([0.0, 1.0, 3.0]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    frames: list[torch.Tensor] = []
    for index in range(num_frames):
        jump = index == 0 or draw(st.booleans())
        scene = normal(num_tokens, width) + common * normal(width) if jump else frames[-1]
        frames.append(scene + drift * normal(num_tokens, width))
    scale = draw(st.sampled_from(scales))
    return scale * torch.stack(frames), torch.rand(num_frames, num_tokens, generator=generator)


@st.composite
def configs(draw: st.DrawFn, reference_compatible: bool) -> CompressionConfig:
    thresholds = [-2.0, -0.5, 0.0, 0.5, 0.8, 0.95] + ([] if reference_compatible else [1.0])
    return CompressionConfig(
        retention_ratio=draw(st.sampled_from([0.05, 0.25, 0.4, 0.6, 0.9, 1.0])),
        do_segment=draw(st.booleans()),
        segment_threshold=draw(st.sampled_from([-2.0, 0.5, 0.9, 2.0])),
        min_segment_num=draw(st.integers(1, 8)),
        complementary_segment=draw(st.booleans()),
        token_selection_method=draw(st.sampled_from(["attn_div", "attn_div_v2", "attn", "div"])),
        alpha=draw(st.sampled_from([0.0, 0.3, 0.7, 1.0])),
        temporal_threshold=draw(st.sampled_from(thresholds)),
        expansion=draw(st.sampled_from([1.0, 1.25])),
        event_relevance=draw(st.sampled_from(["segment", "clip"])),
        reference_compatible=reference_compatible,
    )


def assert_same(video: tuple[torch.Tensor, torch.Tensor], config: CompressionConfig, rank: Ranker) -> None:
    features, scores = video
    try:
        slots, lengths = naive_compress(features.numpy(), scores.numpy(), config, rank)
    except UndecidedError:
        reject()
    result = compress(features, scores, config)
    assert list(result.segment_lengths) == lengths
    assert result.indices.tolist() == [slot.index for slot in slots]
    expected = torch.from_numpy(np.stack([slot.token for slot in slots])).float()
    torch.testing.assert_close(result.tokens, expected, rtol=1e-5, atol=1e-5)
    for token, slot in enumerate(result.assignment.tolist()):
        holders = [number for number, candidate in enumerate(slots) if token in candidate.sources]
        assert slot == (holders[0] if holders else -1)


@settings(derandomize=True, deadline=None, max_examples=600)
@given(videos(), configs(reference_compatible=False))
def test_the_method(video: tuple[torch.Tensor, torch.Tensor], config: CompressionConfig) -> None:
    assert_same(video, config, lowest_index_first)


@settings(derandomize=True, deadline=None, max_examples=600)
@given(videos(scales=(1.0, 100.0)), configs(reference_compatible=True))
def test_the_reference(video: tuple[torch.Tensor, torch.Tensor], config: CompressionConfig) -> None:
    """The densities of distant tokens underflow in the reference, so all tokens of a frame tie."""
    assert_same(video, config, rank_as_torch_does)


@pytest.mark.parametrize("reference_compatible", [False, True])
def test_a_larger_video(reference_compatible: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    scenes = torch.randn(3, 25, 16, generator=generator).repeat_interleave(4, dim=0)
    features = scenes + 0.3 * torch.randn(12, 25, 16, generator=generator)
    scores = torch.rand(12, 25, generator=generator)
    config = CompressionConfig(min_segment_num=2, reference_compatible=reference_compatible)
    assert_same((features, scores), config, rank_as_torch_does if reference_compatible else lowest_index_first)
