"""Input and output of every compression method, and the assembly of a result from its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from flashvid.compression.tstm import sum_bags
from flashvid.errors import InvalidFeaturesError


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """The visual tokens of one clip, checked: T temporal steps ("frames") of N tokens each.

    Attributes:
        features: `[T, N, D]`, floating.
        scores: `[T, N]`, floating.
        grid_hw: Rows and columns of a frame's tokens, in reading order; None if unknown.
    """

    features: Tensor
    scores: Tensor
    grid_hw: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class CompressionResult:
    """The compressed tokens of one video of T frames with N tokens each.

    Attributes:
        tokens: `[M, D]` in the dtype of the features.
        indices: `[M]` int64, ascending: index of each token among the T * N input tokens. Repeats only if
            `reference_compatible`.
        assignment: `[T * N]` int64: the slot (0 to M - 1) that an input token was kept as or merged into, -1 if it was
            dropped. A slot's inputs are all tokens that contribute to it: a selected token only itself, a merged one
            every tree of its cluster. With `reference_compatible` an input may contribute to several slots, and the
            first of them is given; a slot whose inputs all come first elsewhere is then missing here.
        segment_lengths: Frames per segment, adding up to T. Zeros only if `reference_compatible`.
    """

    tokens: Tensor
    indices: Tensor
    assignment: Tensor
    segment_lengths: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a result, not yet sorted, as weighted sums of input tokens that are not computed yet.

    Attributes:
        indices: `[m]` int64: index of each row among the input tokens.
        members: `[p]` int64: input tokens by their index in the video.
        member_rows: `[p]` int64: the row that each of `members` contributes to.
        weights: `[p]` floating: weight of each of `members`.
    """

    indices: Tensor
    members: Tensor
    member_rows: Tensor
    weights: Tensor

    @classmethod
    def kept(cls, indices: Tensor) -> Rows:
        """Return the rows of tokens that are kept unchanged: `[m]` int64."""
        rows = torch.arange(len(indices), device=indices.device)
        return cls(indices, indices, rows, torch.ones(len(indices), device=indices.device))


def widened(features: Tensor) -> Tensor:
    """Return features in float32 or wider, and contiguous: sums over frames and tokens overflow 16-bit dtypes."""
    return features.to(torch.promote_types(features.dtype, torch.float32)).contiguous()


def assemble(
    features: Tensor, parts: Sequence[Rows], segment_lengths: tuple[int, ...], dtype: torch.dtype
) -> CompressionResult:
    """Sort the rows by index (at equal indices, earlier parts first) and compute their weighted sums.

    Args:
        features: `[T, N, D]`, float32 or float64, contiguous.
        parts: Rows of the result.
        segment_lengths: Frames per segment.
        dtype: Dtype of the result.

    Raises:
        InvalidFeaturesError: A sum does not fit `dtype`.
    """
    inputs = features.view(-1, features.shape[-1])
    indices, order = torch.cat([part.indices for part in parts]).sort(stable=True)
    num_rows, slot_of_row = len(indices), order.argsort()
    firsts = accumulate((len(part.indices) for part in parts[:-1]), initial=0)
    slots = slot_of_row[torch.cat([part.member_rows + first for part, first in zip(parts, firsts, strict=True)])]
    members = torch.cat([part.members for part in parts])
    weights = torch.cat([part.weights for part in parts])
    tokens = sum_bags(inputs, members, slots, num_rows, weights).to(dtype)
    # Only sums of the reference can exceed the range, and only in 16-bit dtypes.
    if dtype in (torch.float16, torch.bfloat16) and not bool(tokens.isfinite().all()):
        raise InvalidFeaturesError(f"features overflow {dtype} when summed over frames: use float32")
    assignment = indices.new_full((len(inputs),), num_rows)
    assignment.scatter_reduce_(0, members, slots, "amin")
    return CompressionResult(tokens, indices, assignment.masked_fill_(assignment == num_rows, -1), segment_lengths)
