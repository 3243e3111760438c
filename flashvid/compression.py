"""The whole vision-side compression of one video: DySeg, ADTS, TSTM, DPC-kNN, assembly (spec 0-5)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from flashvid.clustering import cluster_means, dpc_knn
from flashvid.config import CompressionConfig
from flashvid.errors import ConfigurationError, InvalidFeaturesError
from flashvid.merging import Trees, merge_trees
from flashvid.segmentation import segment_frames
from flashvid.selection import select_tokens

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Products of two features, a score and the reference's 1e6, summed over a model's width, still fit float32.
LARGEST_MAGNITUDE = 1e9


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
class _Rows:
    """Rows of the result before they are sorted, and which input tokens they are made of."""

    tokens: Tensor
    indices: Tensor
    members: Tensor
    """`[p]` int64: input tokens by their index in the video."""
    member_rows: Tensor
    """`[p]` int64: the row that each of `members` contributes to."""


def compress(features: Tensor, scores: Tensor, config: CompressionConfig) -> CompressionResult:
    """Compress the visual tokens of one video.

    The same input gives the same bytes, run after run, on one machine with one number of threads. The arguments
    are not changed, and no gradient is recorded.

    Args:
        features: `[T, N, D]`, any floating dtype and device: what the projector gives to the LLM.
        scores: `[T, N]`, floating, on the same device: the attention each token receives in the vision tower.
        config: The settings.

    Returns:
        `T * config.budget(N)` tokens and at most T more, since the clusters of a frame are rounded up. Without
        `reference_compatible`, a budget of N or more keeps every token as it is.

    Raises:
        InvalidFeaturesError: The tensors have a wrong shape, dtype or device, are empty, or hold values that are
            not finite or beyond 1e9.
        ConfigurationError: `reference_compatible` with a temporal threshold of 1 or more and tokens to merge,
            where the reference divides by zero.
    """
    _check(features, scores)
    num_tokens = features.shape[1]
    n_merge = config.n_merge(num_tokens)
    if config.reference_compatible and n_merge > 0 and config.temporal_threshold >= 1:
        raise ConfigurationError(
            f"temporal_threshold {config.temporal_threshold} makes the reference divide by zero: use a value "
            "below 1, or reference_compatible=False, where 1 means no links over time"
        )
    with torch.no_grad():
        segment_lengths = segment_frames(features, config)
        selected = select_tokens(
            features,
            scores,
            segment_lengths,
            num_selected=config.n_select(num_tokens),
            method=config.token_selection_method,
            reference_compatible=config.reference_compatible,
        )
        rows = [_selected_rows(features, selected)]
        if n_merge > 0:
            for end, length in zip(accumulate(segment_lengths), segment_lengths, strict=True):
                if length > 0:
                    segment = slice(end - length, end)
                    offset = segment.start * num_tokens
                    rows.append(_merged_rows(features[segment], selected[segment], offset, config))
        return _assemble(features, rows, segment_lengths)


def _check(features: Tensor, scores: Tensor) -> None:
    for name, tensor, shape in (("features", features, "[T, N, D]"), ("scores", scores, "[T, N]")):
        if not isinstance(tensor, Tensor):
            raise InvalidFeaturesError(f"{name} must be a tensor {shape}, not {type(tensor).__name__}")
        if tensor.ndim != shape.count(",") + 1:
            raise InvalidFeaturesError(f"{name} must be {shape}, not of shape {list(tensor.shape)}")
        if tensor.dtype not in DTYPES:
            raise InvalidFeaturesError(f"{name} must be floating point of 16, 32 or 64 bits, not {tensor.dtype}")
        if tensor.numel() == 0:
            raise InvalidFeaturesError(f"{name} are empty: shape {list(tensor.shape)}")
    if features.shape[:2] != scores.shape:
        raise InvalidFeaturesError(
            f"features {list(features.shape)} and scores {list(scores.shape)} disagree on frames or tokens"
        )
    if features.device != scores.device:
        raise InvalidFeaturesError(f"features are on {features.device}, scores on {scores.device}")
    for name, tensor in (("features", features), ("scores", scores)):
        if not bool(tensor.isfinite().all()):
            raise InvalidFeaturesError(f"{name} contain NaN or infinite values")
        if bool((tensor.abs() > LARGEST_MAGNITUDE).any()):
            raise InvalidFeaturesError(f"{name} contain values beyond {LARGEST_MAGNITUDE:g}")


def _selected_rows(features: Tensor, selected: Tensor) -> _Rows:
    """The tokens ADTS selected, untouched, frame by frame."""
    num_frames, num_tokens, width = features.shape
    firsts = torch.arange(num_frames, device=features.device) * num_tokens
    indices = (firsts.unsqueeze(-1) + selected).flatten()
    tokens = features.reshape(-1, width)[indices]
    return _Rows(tokens, indices, indices, torch.arange(len(indices), device=indices.device))


def _merged_rows(features: Tensor, selected: Tensor, offset: int, config: CompressionConfig) -> _Rows:
    """What TSTM and DPC-kNN make of the other tokens of one segment.

    Args:
        features: `[L, N, D]`, the segment.
        selected: `[L, k]` int64, positions in each frame.
        offset: The segment's first token in the video.
        config: The settings.
    """
    num_frames, num_tokens, _ = features.shape
    free = torch.ones(num_frames, num_tokens, dtype=torch.bool, device=features.device)
    # The reference offers every token of a frame that is a segment of its own, selected ones a second time.
    if num_frames > 1 or not config.reference_compatible:
        free.scatter_(1, selected, value=False)
    trees = merge_trees(
        features,
        free,
        config.temporal_threshold,
        config.budget(num_tokens) * num_frames,
        reference_compatible=config.reference_compatible,
    )
    tokens, positions, row_of_root = _cluster_frames(trees, config.n_merge(num_tokens), config)
    members = free.flatten().nonzero().flatten()
    return _Rows(
        tokens.to(features.dtype),
        positions + offset,
        members + offset,
        member_rows=row_of_root[trees.root.flatten()[members]],
    )


def _cluster_frames(trees: Trees, n_merge: int, config: CompressionConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Merge the roots of each frame into its share of the segment's `n_merge` per frame.

    Returns:
        Tokens `[m, D]`, their positions in the segment `[m]`, and for each position that is a root its row
        `[L * N]`.
    """
    num_frames, num_tokens, width = trees.values.shape
    num_roots = int(trees.is_root.sum())
    # One share for all frames: a frame with more roots keeps more of them.
    share = n_merge * num_frames / max(num_roots, 1)
    tokens, positions = [trees.values.new_empty(0, width)], [trees.root.new_empty(0)]
    row_of_root = trees.root.new_full((num_frames * num_tokens,), -1)
    num_rows = 0
    for frame in range(num_frames):
        roots = trees.is_root[frame].nonzero().flatten()
        values, places = trees.values[frame, roots], roots + frame * num_tokens
        num_clusters = math.ceil(len(roots) * share)
        if share >= 1 or num_clusters == 0:
            row_of_root[places] = torch.arange(num_rows, num_rows + len(roots), device=roots.device)
        else:
            clusters = dpc_knn(values, num_clusters, reference_compatible=config.reference_compatible)
            row_of_root[places] = num_rows + clusters.ids
            values, places = cluster_means(values, clusters), places[clusters.centers]
        tokens.append(values)
        positions.append(places)
        num_rows += len(places)
    return torch.cat(tokens), torch.cat(positions), row_of_root


def _assemble(features: Tensor, rows: list[_Rows], segment_lengths: tuple[int, ...]) -> CompressionResult:
    """Sort the rows by index; of equal ones, a selected token comes before a merged one."""
    indices = torch.cat([part.indices for part in rows])
    tokens = torch.cat([part.tokens for part in rows])
    indices, order = indices.sort(stable=True)
    if not bool(tokens.isfinite().all()):
        # Only the reference's sums, kept in half precision, can grow beyond its range.
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
