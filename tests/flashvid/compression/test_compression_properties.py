"""Properties of any result, also for repeated frames, zero vectors, ties and every floating dtype."""

from __future__ import annotations

import math
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flashvid import CompressionConfig, CompressionResult, compress
from flashvid.compression.adts import event_relevance, select_tokens
from flashvid.compression.api import DTYPES
from flashvid.compression.dpc_knn import Layout, dpc_knn
from flashvid.compression.dyseg import Segments, cut_segments
from flashvid.compression.products import inverse_lengths
from flashvid.compression.tstm import Forest, find_links, grow_forest, sum_bags
from tests.flashvid.compression.test_compression_oracle import configs

Video = tuple[torch.Tensor, torch.Tensor]


@st.composite
def awkward_videos(draw: st.DrawFn) -> Video:
    num_frames, num_tokens, width = (draw(st.integers(*bounds)) for bounds in ((1, 6), (1, 30), (1, 6)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    features = torch.randn(num_frames, num_tokens, width, generator=generator)
    scores = torch.rand(num_frames, num_tokens, generator=generator)
    kinds = ["plain", "rounded", "still", "flat", "zero", "black frame", "black token"]
    kind = draw(st.sampled_from(kinds))
    if kind == "rounded":
        features, scores = features.round(), scores.round()
    elif kind == "still":
        features = features[:1].repeat(num_frames, 1, 1)
    elif kind == "flat":
        features = features[:, :1].repeat(1, num_tokens, 1)
    elif kind == "zero":
        features, scores = torch.zeros_like(features), torch.zeros_like(scores)
    elif kind == "black frame":
        features[num_frames // 2] = 0
    elif kind == "black token":
        features[num_frames // 2, num_tokens // 2] = 0
    scale = draw(st.sampled_from([1e-4, 1.0, 1e3]))
    dtype = draw(st.sampled_from(DTYPES))
    return (features * scale).to(dtype), scores.to(dtype)


def same_bytes(one: CompressionResult, other: CompressionResult) -> bool:
    pairs = ((one.tokens, other.tokens), (one.indices, other.indices), (one.assignment, other.assignment))
    return one.segment_lengths == other.segment_lengths and all(torch.equal(a, b) for a, b in pairs)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(awkward_videos(), configs(reference_compatible=False))
def test_the_method(video: Video, config: CompressionConfig) -> None:
    features, scores = video
    num_frames, num_tokens, width = features.shape
    before = features.clone(), scores.clone()
    result = compress(features, scores, config)

    assert torch.equal(features, before[0]), "the caller's tensors are untouched"
    assert torch.equal(scores, before[1])
    assert same_bytes(result, compress(features, scores, config)), "the same bytes again"

    assert result.tokens.dtype == features.dtype
    assert result.tokens.shape == (len(result.indices), width)
    assert result.indices.dtype == result.assignment.dtype == torch.int64
    assert result.assignment.shape == (num_frames * num_tokens,)
    assert sum(result.segment_lengths) == num_frames
    assert min(result.segment_lengths) > 0

    indices = result.indices.tolist()
    assert indices == sorted(set(indices)), "ascending, none twice"
    assert 0 <= indices[0] <= indices[-1] < num_frames * num_tokens
    asked = math.ceil(config.retention_ratio * config.expansion * num_frames * num_tokens)
    assert len(indices) == min(asked, num_frames * num_tokens), "exactly the budget"
    if asked >= num_frames * num_tokens:
        assert torch.equal(result.tokens, features.flatten(0, 1)), "nothing to save, nothing changed"

    # With a merged token for every frame there is one for every input.
    merged = asked - math.ceil(asked * config.alpha)
    check_slots(features, result, everything=merged >= 2 * num_frames)


def check_slots(features: torch.Tensor, result: CompressionResult, everything: bool) -> None:
    """Every token is within its inputs, which are in one segment and not before the slot's own position."""
    inputs = features.flatten(0, 1).double()
    assignment = result.assignment
    slots = torch.arange(len(result.indices))
    assert torch.equal(assignment[result.indices], slots), "a slot's own position belongs to it"
    assert assignment.max() == len(slots) - 1
    assert assignment.min() >= (0 if everything else -1)
    frame_ends = torch.tensor(list(accumulate(result.segment_lengths))) * features.shape[1]
    tolerance = 4 * torch.finfo(torch.promote_types(features.dtype, torch.float32)).eps
    if features.dtype in (torch.float16, torch.bfloat16):
        tolerance = torch.finfo(features.dtype).eps
    for slot, index in enumerate(result.indices.tolist()):
        members = (assignment == slot).nonzero().flatten()
        token, own = result.tokens[slot].double(), inputs[members]
        if len(members) == 1:
            assert torch.equal(token, inputs[index]), "kept alone is kept as it is"
        slack = tolerance * own.abs().amax(dim=0) + 1e-7 * tolerance
        assert (token >= own.amin(dim=0) - slack).all()
        assert (token <= own.amax(dim=0) + slack).all()
        assert len(set(torch.bucketize(members, frame_ends, right=True).tolist())) == 1, "one segment"
        assert members.min() // features.shape[1] == index // features.shape[1], "roots come first"


@settings(derandomize=True, deadline=None, max_examples=200)
@given(awkward_videos(), configs(reference_compatible=True))
def test_the_reference_mode_survives_too(video: Video, config: CompressionConfig) -> None:
    features, scores = video
    before = features.clone()
    result = compress(features, scores, config)
    assert torch.equal(features, before)
    assert same_bytes(result, compress(features, scores, config))
    assert result.tokens.isfinite().all()
    assert result.tokens.dtype == features.dtype
    assert (result.indices.diff() >= 0).all()
    assert sum(result.segment_lengths) == len(features)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decides_as_float32_on_the_same_values(dtype: torch.dtype) -> None:
    features = moving_video().to(dtype)
    scores = torch.rand(features.shape[:2], generator=torch.Generator().manual_seed(2)).to(dtype)
    config = CompressionConfig(min_segment_num=2)
    half, single = compress(features, scores, config), compress(features.float(), scores.float(), config)
    assert torch.equal(half.indices, single.indices)
    assert torch.equal(half.assignment, single.assignment)
    assert torch.equal(half.tokens, single.tokens.to(dtype))


def moving_video(num_frames: int = 12, num_tokens: int = 36, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    scenes = torch.randn(3, num_tokens, width, generator=generator).repeat_interleave(num_frames // 3, dim=0)
    return scenes + 0.3 * torch.randn(num_frames, num_tokens, width, generator=generator)


def test_layout_in_memory_and_gradients_do_not_matter() -> None:
    features = moving_video()
    scores = torch.rand(features.shape[:2], generator=torch.Generator().manual_seed(3))
    expected = compress(features, scores, CompressionConfig())
    strided = features.permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_()
    result = compress(strided, scores.T.contiguous().T, CompressionConfig())
    assert not result.tokens.requires_grad
    assert same_bytes(result, expected)


@pytest.mark.parametrize("reference_compatible", [False, True])
@pytest.mark.parametrize(("num_frames", "num_tokens"), [(1, 1), (1, 9), (2, 1), (2, 9)])
def test_smallest_videos(num_frames: int, num_tokens: int, reference_compatible: bool) -> None:
    features = torch.arange(1.0, num_frames * num_tokens * 2 + 1).view(num_frames, num_tokens, 2)
    config = CompressionConfig(reference_compatible=reference_compatible)
    result = compress(features, torch.ones(num_frames, num_tokens), config)
    if reference_compatible:
        assert len(result.indices) >= num_frames * config.budget(num_tokens)
    else:
        assert len(result.indices) == math.ceil(num_frames * num_tokens * 0.25)


def forest_of(features: torch.Tensor, free: torch.Tensor, min_roots: int, reference_compatible: bool) -> Forest:
    return grow_forest(
        features,
        inverse_lengths(features, reference_compatible=reference_compatible),
        free,
        Segments.of((len(features),), features.device),
        0.8,
        np.array([min_roots]),
        dtype=features.dtype,
        reference_compatible=reference_compatible,
    )


def test_full_retention_returns_everything_untouched() -> None:
    features = moving_video()
    result = compress(features, torch.ones(features.shape[:2]), CompressionConfig(retention_ratio=1.0))
    assert torch.equal(result.tokens, features.flatten(0, 1))
    assert torch.equal(result.assignment, torch.arange(len(result.indices)))


@pytest.mark.parametrize(
    ("similarities", "min_segment_num", "reference_compatible", "lengths"),
    [
        ([0.5, 0.25], 1, False, (2, 1)),  # strictly below the threshold
        ([0.7, 0.6, 0.6, 0.9], 2, False, (2, 3)),  # one more cut, at the first of the least similar
        ([0.1, 0.9, 0.8], 9, False, (1, 1, 1, 1)),  # every transition once
        ([0.1, 0.9, 0.8], 9, True, (1, 0, 1, 1, 1)),  # and then those already cut again
        ([0.1, 1.0 + 1e-6], 3, True, (1, 0, 2)),  # rounded above 1, a transition comes after those
    ],
)
def test_segments(
    similarities: list[float], min_segment_num: int, reference_compatible: bool, lengths: tuple[int, ...]
) -> None:
    found = cut_segments(
        torch.tensor(similarities),
        threshold=0.5,
        min_segment_num=min_segment_num,
        complementary=True,
        reference_compatible=reference_compatible,
    )
    assert found == lengths


def test_deep_tree_is_the_mean_and_in_the_reference_is_not() -> None:
    """The mean of a chain of five equal tokens is the token; the reference gives 5/2 of it."""
    features = torch.eye(4).repeat(5, 1, 1)
    free = torch.ones(5, 4, dtype=torch.bool)
    for reference_compatible, factor in ((False, 1.0), (True, 2.5)):
        forest = forest_of(features, free, 1, reference_compatible)
        assert forest.is_root.nonzero().tolist() == [[0, n] for n in range(4)]
        assert torch.equal(forest.root.view(5, 4), torch.arange(4).expand(5, 4))
        sums = sum_bags(features.flatten(0, 1), torch.arange(20), forest.root, 4, torch.ones(20))
        assert torch.equal(sums / forest.divisor[:4].unsqueeze(-1), factor * torch.eye(4))


def test_floor_keeps_the_weakest_links_apart() -> None:
    similarity = torch.tensor([0.99, 0.95, 0.9, 0.85])
    second = torch.stack(
        [torch.eye(8)[n] * s + torch.eye(8)[n + 4] * (1 - s * s).sqrt() for n, s in enumerate(similarity)]
    )
    features = torch.stack([torch.eye(8)[:4], second])
    free = torch.ones(2, 4, dtype=torch.bool)
    # Of 8 tokens 6 should stay: two links are permitted, and the strict comparison makes it one.
    forest = forest_of(features, free, 6, reference_compatible=False)
    assert forest.is_root.tolist() == [[True] * 4, [False, True, True, True]]


def select(
    features: torch.Tensor, scores: torch.Tensor, num_selected: int, method: str, reference_compatible: bool = False
) -> list[list[int]]:
    """Select with ADTS on frames that form one segment."""
    relevance = None
    if method == "attn_div_v2":
        segment = Segments.of((len(features),), features.device)
        relevance = event_relevance(features, features.mean(dim=1), segment)
    picked: list[list[int]] = select_tokens(
        features,
        inverse_lengths(features, reference_compatible=reference_compatible),
        scores,
        relevance,
        num_selected=num_selected,
        method=method,  # type: ignore[arg-type]
        reference_compatible=reference_compatible,
    ).tolist()
    return picked


def cluster(points: torch.Tensor, num_clusters: int) -> tuple[list[int], list[int]]:
    """Return the centres of one frame, and the cluster of each token."""
    layout = Layout.of(np.array([len(points)]))
    clusters = dpc_knn(points.clone(), layout, np.array([num_clusters]), reference_compatible=False)
    return clusters.centers.tolist(), clusters.ids.tolist()


def test_ties_go_to_the_lowest_index() -> None:
    # Exact in float32: eight unit vectors in pairs of equals, all other pairs orthogonal.
    features = torch.eye(4).repeat(2, 1).unsqueeze(0)
    assert select(features, torch.ones(1, 8), 6, "attn_div") == [[0, 1, 2, 3, 4, 5]]
    frames = features.repeat(2, 1, 1)
    segment = Segments.of((2,), frames.device)
    links = find_links(frames, torch.ones(2, 8), torch.ones(2, 8) > 0, segment, reference_compatible=False)
    assert links.parent[1].tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    assert cluster(torch.ones(6, 4), 2) == ([0, 1], [0, 1, 0, 0, 0, 0])


def test_equal_tokens_tie_whatever_rounding_makes_of_their_distance() -> None:
    """After each of eight different tokens is selected, their copies tie."""
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(1, 8, 100, generator=generator).repeat(1, 5, 1)
    scores = torch.rand(1, 40, generator=generator) + 1
    picked = select(features, scores, 30, "attn_div")[0]
    assert {token % 8 for token in picked[:8]} == {*range(8)}
    assert picked[8:] == sorted({*range(40)} - {*picked[:8]})[:22]


def test_no_link_where_none_is_possible_however_low_the_threshold() -> None:
    """The reference marks an impossible link with -1; a threshold below that does not turn it into a link."""
    generator = torch.Generator().manual_seed(5)
    scores = torch.rand(8, 16, generator=generator)
    features = torch.randn(8, 16, 8, generator=generator) * 0.2 + 3
    features[4:] *= torch.tensor([1.0, -1.0]).repeat(4)
    black = features.clone()
    black[5] = 0
    for clip in (torch.zeros_like(features), features, black):
        for alpha in (0.0, 0.7):
            config = CompressionConfig(
                min_segment_num=1, temporal_threshold=-2.0, alpha=alpha, retention_ratio=0.1, reference_compatible=True
            )
            result = compress(clip, scores, config)
            first = result.segment_lengths[0] * 16
            of_later = result.assignment[first:]
            assert (result.indices[of_later[of_later >= 0]] >= first).all(), "no tree reaches over a cut"


def test_a_budget_beyond_all_bounds_keeps_everything() -> None:
    features = moving_video()
    config = CompressionConfig(expansion=1e6)
    assert torch.equal(compress(features, torch.ones(12, 36), config).tokens, features.flatten(0, 1))
    for reference_compatible in (False, True):
        config = CompressionConfig(expansion=1e6, retention_ratio=1.0, reference_compatible=reference_compatible)
        result = compress(features, torch.ones(12, 36), config)
        assert {*result.indices.tolist()} == {*range(12 * 36)}
    with pytest.raises(ValidationError, match="expansion"):
        CompressionConfig(expansion=1e18)


def test_fewer_picks_are_the_first_of_more() -> None:
    features, scores = moving_video(), torch.rand(12, 36, generator=torch.Generator().manual_seed(7))
    for method in ("attn_div_v2", "attn_div", "attn", "div"):
        more = select(features, scores, 20, method)
        assert select(features, scores, 13, method) == [picks[:13] for picks in more]


def test_densities_beyond_the_range_of_exp_still_rank() -> None:
    """exp(-d^2) underflows for every token of these groups; the logarithms still differ."""
    points = torch.tensor([0.0, 20.0, -20.0]).repeat(3) + torch.tensor([0.0, 1e5, 2e5]).repeat_interleave(3)
    assert cluster(points.unsqueeze(-1), 3) == ([0, 3, 6], [0, 0, 0, 1, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("sizes", [[30, 17, 9], [30, 29, 21, 21, 16, 9, 3, 1, 1]])
def test_frames_are_clustered_as_if_alone(sizes: list[int]) -> None:
    """A frame has the same clusters with frames of other sizes, one of which needs float64."""
    generator = torch.Generator().manual_seed(8)
    frames = [torch.randn(n, 16, generator=generator) for n in sizes]
    frames[1][7] = frames[1][3] + 1e-4
    layout = Layout.of(np.array(sizes))
    packed = torch.randn(layout.num_rows, 16, generator=generator)
    for frame, first in zip(frames, layout.first_rows, strict=True):
        packed[first : first + len(frame)] = frame
    counts = [-(-size // 3) for size in sizes]
    clusters = dpc_knn(packed, layout, np.array(counts), reference_compatible=False)
    first_cluster = 0
    for frame, first, count in zip(frames, layout.first_rows, counts, strict=True):
        last_cluster = first_cluster + count
        found = (
            (clusters.centers[first_cluster:last_cluster] - first).tolist(),
            (clusters.ids[first : first + len(frame)] - first_cluster).tolist(),
        )
        assert found == cluster(frame, count)
        first_cluster = last_cluster


def test_a_token_is_never_selected_twice() -> None:
    """If every token opposes its segment, the reference's attn_div_v2 selects one token repeatedly."""
    features = torch.cat([moving_video(3, 36, 32) + 3, 0.2 * moving_video(3, 36, 32) - 0.5])
    scores = torch.rand(6, 36, generator=torch.Generator().manual_seed(6))
    repeats = {}
    for reference_compatible in (False, True):
        picked = select(features, scores, 12, "attn_div_v2", reference_compatible)
        repeats[reference_compatible] = sum(12 - len(set(row)) for row in picked)
    assert repeats[False] == 0
    assert repeats[True] > 0
