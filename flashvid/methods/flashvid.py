"""FlashVID: DySeg, ADTS, TSTM, DPC-kNN, assembly (arXiv 2602.08024; spec 0-5)."""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor

from flashvid.clustering import cluster_means, dpc_knn
from flashvid.config import CompressionConfig
from flashvid.errors import ConfigurationError
from flashvid.merging import Trees, merge_trees
from flashvid.methods.method import CompressionMethod
from flashvid.result import ClipFeatures, CompressionResult, Rows, assemble
from flashvid.segmentation import segment_frames
from flashvid.selection import select_tokens


def compress_flashvid(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    """FlashVID as a whole; see `flashvid.compress`.

    Raises:
        ConfigurationError: `reference_compatible` with a temporal threshold of 1 or more and tokens to merge,
            where the reference divides by zero.
    """
    features, scores = clip.features, clip.scores
    num_tokens = features.shape[1]
    n_merge = config.n_merge(num_tokens)
    if config.reference_compatible and n_merge > 0 and config.temporal_threshold >= 1:
        raise ConfigurationError(
            f"temporal_threshold {config.temporal_threshold} makes the reference divide by zero: use a value "
            "below 1, or reference_compatible=False, where 1 means no links over time"
        )
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
    return assemble(features, rows, segment_lengths)


def _selected_rows(features: Tensor, selected: Tensor) -> Rows:
    """The tokens ADTS selected, untouched, frame by frame."""
    num_frames, num_tokens, width = features.shape
    firsts = torch.arange(num_frames, device=features.device) * num_tokens
    indices = (firsts.unsqueeze(-1) + selected).flatten()
    tokens = features.reshape(-1, width)[indices]
    return Rows(tokens, indices, indices, torch.arange(len(indices), device=indices.device))


def _merged_rows(features: Tensor, selected: Tensor, offset: int, config: CompressionConfig) -> Rows:
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
    return Rows(
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


FLASHVID = CompressionMethod(compress_flashvid, "FlashVID, arXiv 2602.08024")
