"""A stream of blocks compared with the whole clip, and its memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from flashvid import CompressionConfig, ConfigurationError, InvalidFeaturesError, compress
from flashvid.compression.streaming import StreamedSegment, compress_stream, joined

NUM_TOKENS = 25


def scenes(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    frames = []
    for length in lengths:
        scene = torch.randn(NUM_TOKENS, 16, generator=generator) + 2 * torch.randn(16, generator=generator)
        frames.append(scene + 0.3 * torch.randn(length, NUM_TOKENS, 16, generator=generator))
    features = torch.cat(frames)
    return features, torch.rand(features.shape[:2], generator=generator)


def stream(
    features: torch.Tensor, scores: torch.Tensor, block: int, config: CompressionConfig, longest: int = 100
) -> list[StreamedSegment]:
    blocks = zip(features.split(block), scores.split(block), strict=True)
    return list(compress_stream(blocks, config, max_segment_frames=longest))


@pytest.mark.parametrize("reference_compatible", [False, True])
@pytest.mark.parametrize("block", [1, 4, 7, 100])
def test_hard_cuts_give_what_compress_gives(block: int, reference_compatible: bool) -> None:
    features, scores = scenes([5, 1, 8, 3, 6])
    config = CompressionConfig(complementary_segment=False, reference_compatible=reference_compatible)
    before = features.clone()
    expected = compress(features, scores, config)
    found = stream(features, scores, block, config)
    assert torch.equal(features, before)
    assert expected.segment_lengths == (5, 1, 8, 3, 6), "otherwise this tests less"
    assert [segment.first_frame for segment in found] == [0, 5, 6, 14, 17]
    whole = joined(found, NUM_TOKENS)
    assert torch.equal(whole.indices, expected.indices)
    torch.testing.assert_close(whole.tokens, expected.tokens)
    assert torch.equal(whole.assignment, expected.assignment)
    assert whole.segment_lengths == expected.segment_lengths


def test_a_block_may_be_overwritten_when_the_next_is_asked_for() -> None:
    """Overwriting a block's buffer, as a video decoder does, is safe; segments span several blocks."""
    features, scores = scenes([5, 8, 7])
    config = CompressionConfig(complementary_segment=False)

    def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        buffers = torch.empty_like(features[:4]), torch.empty_like(scores[:4])
        for start in range(0, 20, 4):
            for buffer, source in zip(buffers, (features, scores), strict=True):
                buffer.copy_(source[start : start + 4])
            yield buffers

    expected = compress(features, scores, config)
    whole = joined(list(compress_stream(blocks(), config, max_segment_frames=100)), NUM_TOKENS)
    assert torch.equal(whole.indices, expected.indices)
    torch.testing.assert_close(whole.tokens, expected.tokens)


def test_segments_are_cut_at_the_longest_allowed_and_the_budget_stays_exact() -> None:
    features, scores = scenes([11, 2])
    for config in (CompressionConfig(retention_ratio=0.13), CompressionConfig(retention_ratio=0.13, do_segment=False)):
        found = stream(features, scores, 3, config, longest=4)
        lengths = [sum(segment.result.segment_lengths) for segment in found]
        assert lengths == ([4, 4, 3, 2] if config.do_segment else [4, 4, 4, 1])
        assert sum(len(segment.result.indices) for segment in found) == config.clip_budget(13, NUM_TOKENS)


def test_impossible_streams_are_refused() -> None:
    features, scores = scenes([4])
    for config in (CompressionConfig(event_relevance="clip"), CompressionConfig(method="adts")):
        with pytest.raises(ConfigurationError):
            stream(features, scores, 2, config)
    for longest in (0, 2.5):
        with pytest.raises(ConfigurationError, match="max_segment_frames"):
            # Without asking for a segment.
            compress_stream([], CompressionConfig(), max_segment_frames=longest)  # type: ignore[arg-type]

    def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        yield features, scores
        yield features[:, :4], scores[:, :4]

    with pytest.raises(InvalidFeaturesError, match="follows blocks of"):
        list(compress_stream(blocks(), CompressionConfig(), max_segment_frames=9))


def test_nothing_gives_nothing() -> None:
    segments = list(compress_stream([], CompressionConfig(), max_segment_frames=9))
    assert segments == []
    with pytest.raises(InvalidFeaturesError, match="no segments"):
        joined(segments, NUM_TOKENS)


PEAK = """
import resource, sys, torch
from flashvid import CompressionConfig
from flashvid.compression.streaming import compress_stream
torch.set_num_threads(1)

def blocks(count):
    generator = torch.Generator().manual_seed(0)
    for start in range(0, count, 20):
        if start % 60 == 0:
            scene = torch.randn(196, 1152, generator=generator) + torch.randn(1152, generator=generator)
        yield scene + 0.3 * torch.randn(20, 196, 1152, generator=generator), torch.rand(20, 196, generator=generator)

total = 0
for segment in compress_stream(blocks(int(sys.argv[1])), CompressionConfig(), max_segment_frames=64):
    total += len(segment.result.indices)
print(total, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video() -> None:
    """Two hours at one frame per second take at most 1.3 times the memory of ten minutes."""
    peaks = []
    for count in (600, 7200):
        command = [sys.executable, "-c", PEAK, str(count)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        assert int(output[0]) == CompressionConfig().clip_budget(count, 196)
        peaks.append(int(output[1]))
    assert peaks[1] <= 1.3 * peaks[0]
