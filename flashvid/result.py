"""What every compression method gets and returns, and how the parts of a result are put in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from flashvid.errors import InvalidFeaturesError


@dataclass(frozen=True, eq=False)
class ClipFeatures:
    """The visual tokens of one clip, checked: T temporal steps ("frames") of N tokens each."""

    features: Tensor
    """`[T, N, D]`, floating."""
    scores: Tensor
    """`[T, N]`, floating."""
    grid_hw: tuple[int, int] | None = None
    """Rows and columns of a frame's tokens, in reading order; None if nobody said."""


@dataclass(frozen=True, eq=False)
class CompressionResult:
    """The compressed tokens of one video of T frames with N tokens each."""

    tokens: Tensor
    """`[M, D]` in the dtype of the features."""
    indices: Tensor
    """`[M]` int64: where each token stands among the T * N input tokens, ascending. Repeats only if
    `reference_compatible`."""
    assignment: Tensor
    """`[T * N]` int64: the slot (0 to M - 1) an input token was kept as or merged into, -1 if it was dropped.
    A slot's inputs are all tokens that contribute to it: a selected token only itself, a merged one every tree of
    its cluster. With `reference_compatible` an input may contribute to several slots, and the first of them is
    given; a slot whose inputs all come first elsewhere is then missing here."""
    segment_lengths: tuple[int, ...]
    """Frames per segment, adding up to T. Zeros only if `reference_compatible`."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of the result before they are sorted, and which input tokens they are made of."""

    tokens: Tensor
    indices: Tensor
    members: Tensor
    """`[p]` int64: input tokens by their index in the video."""
    member_rows: Tensor
    """`[p]` int64: the row that each of `members` contributes to."""


def assemble(features: Tensor, rows: Sequence[Rows], segment_lengths: tuple[int, ...]) -> CompressionResult:
    """Sort the rows by index; of equal ones, a selected token comes before a merged one."""
    indices = torch.cat([part.indices for part in rows])
    tokens = torch.cat([part.tokens for part in rows])
    indices, order = indices.sort(stable=True)
    # Only the reference's sums, kept in half precision, can grow beyond its range.
    if tokens.dtype in (torch.float16, torch.bfloat16) and not bool(tokens.isfinite().all()):
        raise InvalidFeaturesError(f"features overflow {features.dtype} when summed over frames: use float32")
    num_inputs = features.shape[0] * features.shape[1]
    slot_of_row = torch.empty_like(order)
    slot_of_row[order] = torch.arange(len(order), device=order.device)
    firsts = accumulate((len(part.indices) for part in rows[:-1]), initial=0)
    member_slots = torch.cat([slot_of_row[first + part.member_rows] for first, part in zip(firsts, rows, strict=True)])
    assignment = indices.new_full((num_inputs,), len(indices))
    assignment.scatter_reduce_(0, torch.cat([part.members for part in rows]), member_slots, "amin")
    assignment[assignment == len(indices)] = -1
    return CompressionResult(tokens[order], indices, assignment, segment_lengths)
