"""DySeg: cut a video into segments of similar frames (paper: dynamic segmentation; spec 1)."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from flashvid.config import CompressionConfig

SMALLEST_NORM = 1e-12


def unit_vectors(features: Tensor, *, reference_compatible: bool) -> Tensor:
    """Scale the last dimension to length 1, in the dtype of `features`.

    Args:
        features: `[..., D]`, floating.
        reference_compatible: Without an epsilon, as the reference: a zero vector becomes NaN. Otherwise it
            stays zero, so that its cosine with anything is 0.
    """
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    units: Tensor = features / (norms if reference_compatible else norms.clamp_min(SMALLEST_NORM))
    return units


def first_ranked(values: Tensor, count: int, *, largest: bool, reference_compatible: bool) -> Tensor:
    """Positions of the `count` largest (or smallest) values along the last dimension, best first.

    Ties go to the lowest position. The reference leaves them to `torch.topk`, so what it does with ties can only
    be reproduced by calling that: its order is deterministic but follows no rule.
    """
    if reference_compatible:
        return values.topk(count, largest=largest).indices
    return values.sort(descending=largest, stable=True).indices[..., :count]


def transition_similarities(frame_features: Tensor, *, reference_compatible: bool) -> Tensor:
    """Cosine between each frame's mean feature and the next one's: `[T, D]` to `[T - 1]`, same dtype."""
    units = unit_vectors(frame_features, reference_compatible=reference_compatible)
    return (units[:-1] * units[1:]).sum(dim=-1)


def cut_segments(
    similarities: Tensor,
    *,
    threshold: float,
    min_segment_num: int,
    complementary: bool,
    reference_compatible: bool,
) -> tuple[int, ...]:
    """Lengths of the segments between the transitions that are cut.

    Args:
        similarities: `[T - 1]`, one per transition from a frame to the next.
        threshold: Transitions strictly below it are cut.
        min_segment_num: Fewer segments than this are cut further, at the least similar transitions.
        complementary: Whether `min_segment_num` is enforced.
        reference_compatible: A cut transition may be cut again, which makes a segment of length zero.

    Returns:
        Lengths, adding up to T. Only with `reference_compatible` may some be 0.
    """
    is_cut = similarities < threshold
    cuts = is_cut.nonzero().flatten().tolist()
    missing = min_segment_num - len(cuts) - 1
    if complementary and missing > 0:
        # The reference marks what is cut with 1.0 and may come back to it. Otherwise infinity comes last, and the
        # count stops before it.
        ranked = similarities.masked_fill(is_cut, 1.0 if reference_compatible else torch.inf)
        missing = min(missing, len(similarities) - (0 if reference_compatible else len(cuts)))
        extra = first_ranked(ranked, missing, largest=False, reference_compatible=reference_compatible)
        cuts += extra.tolist()
    borders = [-1, *sorted(cuts), len(similarities)]
    return tuple(end - start for start, end in pairwise(borders))


def segment_frames(features: Tensor, config: CompressionConfig) -> tuple[int, ...]:
    """Lengths of the segments of a video, adding up to T.

    Args:
        features: `[T, N, D]`, floating. The reference works in this dtype; otherwise halves are widened.
        config: `do_segment`, `segment_threshold`, `min_segment_num`, `complementary_segment` are used.
    """
    if not config.do_segment:
        return (len(features),)
    if not config.reference_compatible:
        features = features.to(torch.promote_types(features.dtype, torch.float32))
    return cut_segments(
        transition_similarities(features.mean(dim=1), reference_compatible=config.reference_compatible),
        threshold=config.segment_threshold,
        min_segment_num=config.min_segment_num,
        complementary=config.complementary_segment,
        reference_compatible=config.reference_compatible,
    )
