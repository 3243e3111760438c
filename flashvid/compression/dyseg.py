"""DySeg: cut a video into segments of similar frames (docs/flashvid.md, section 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from flashvid.compression.products import SMALLEST_LENGTH
from flashvid.compression.ranking import Counts, first_ranked
from flashvid.config import CompressionConfig


@dataclass(frozen=True, eq=False)
class Segments:
    """The segments of a clip of T frames.

    Attributes:
        lengths: Frames per segment, adding up to T; zeros only with `reference_compatible`.
        sizes: `[S]`: the same as an array.
        numbers: `[T]`: the segment of each frame, ascending.
        of_frame: `[T]` int64: the same on the device.
    """

    lengths: tuple[int, ...]
    sizes: Counts
    numbers: Counts
    of_frame: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        """Return the segments with these lengths, with their tensor on `device`."""
        sizes = np.array(lengths, dtype=np.int64)
        numbers = np.arange(len(lengths)).repeat(sizes)
        return cls(tuple(lengths), sizes, numbers, torch.from_numpy(numbers).to(device))


def transition_similarities(frame_features: Tensor, *, reference_compatible: bool) -> Tensor:
    """Return the cosine of each frame's mean feature with the next one: `[T, D]` to `[T - 1]`, same dtype."""
    lengths = torch.linalg.vector_norm(frame_features, dim=-1, keepdim=True)
    units: Tensor = frame_features / (lengths if reference_compatible else lengths.clamp_min(SMALLEST_LENGTH))
    return (units[:-1] * units[1:]).sum(dim=-1)


def cut_segments(
    similarities: Tensor, *, threshold: float, min_segment_num: int, complementary: bool, reference_compatible: bool
) -> tuple[int, ...]:
    """Return the lengths of the segments between the transitions that are cut.

    Args:
        similarities: `[T - 1]`, one per transition from a frame to the next.
        threshold: Transitions strictly below it are cut.
        min_segment_num: Fewer segments than this are cut further, at the least similar transitions.
        complementary: Whether `min_segment_num` is enforced.
        reference_compatible: A cut transition may be cut again, which gives a segment of length zero.

    Returns:
        Lengths, adding up to T. Only with `reference_compatible` may some be 0.
    """
    is_cut = similarities < threshold
    cuts = is_cut.nonzero().flatten().tolist()
    missing = min_segment_num - len(cuts) - 1
    if complementary and missing > 0:
        # The reference marks cut transitions with 1.0 and may cut them again. Otherwise they are infinite, hence last,
        # and the count stops before them.
        ranked = similarities.masked_fill(is_cut, 1.0 if reference_compatible else torch.inf)
        missing = min(missing, len(similarities) - (0 if reference_compatible else len(cuts)))
        extra = first_ranked(ranked, missing, largest=False, reference_compatible=reference_compatible)
        cuts += extra.tolist()
    borders = [-1, *sorted(cuts), len(similarities)]
    return tuple(end - start for start, end in pairwise(borders))


def segment_frames(frame_features: Tensor, config: CompressionConfig) -> Segments:
    """Return the segments of a video.

    Args:
        frame_features: `[T, D]`, floating: the mean of each frame's tokens, in the features' dtype for the reference,
            else at least in float32.
        config: `do_segment`, `segment_threshold`, `min_segment_num`, `complementary_segment` are used.
    """
    if not config.do_segment:
        return Segments.of((len(frame_features),), frame_features.device)
    lengths = cut_segments(
        transition_similarities(frame_features, reference_compatible=config.reference_compatible),
        threshold=config.segment_threshold,
        min_segment_num=config.min_segment_num,
        complementary=config.complementary_segment,
        reference_compatible=config.reference_compatible,
    )
    return Segments.of(lengths, frame_features.device)
