"""FlashVID: DySeg, ADTS, TSTM, DPC-kNN, assembly (arXiv 2602.08024; docs/flashvid.md, sections 0 to 5)."""

import numpy as np
import torch
from torch import Tensor

from flashvid.compression.adts import event_relevance, select_tokens
from flashvid.compression.dpc_knn import Layout, dpc_knn
from flashvid.compression.dyseg import Segments, segment_frames
from flashvid.compression.products import inverse_lengths
from flashvid.compression.ranking import Counts, apportion, sum_by_group
from flashvid.compression.result import ClipFeatures, CompressionResult, Rows, assemble, widened
from flashvid.compression.tstm import Forest, grow_forest, sum_bags
from flashvid.config import CompressionConfig
from flashvid.errors import ConfigurationError


def compress_flashvid(clip: ClipFeatures, config: CompressionConfig, *, first_frame: int = 0) -> CompressionResult:
    """Compress a clip with the whole of FlashVID; see `flashvid.compress`.

    Args:
        clip: A clip, or whole segments of one.
        config: The settings.
        first_frame: Frame of the whole clip at which `clip` begins; fractions of a token carry over from there.

    Raises:
        ConfigurationError: `reference_compatible` with a temporal threshold of 1 or more and tokens to merge,
            where the reference divides by zero.
    """
    num_frames, num_tokens, width = clip.features.shape
    kept, selected_up_to = _budget_up_to(first_frame, num_frames, num_tokens, config)
    num_kept, num_selected = int(kept[-1] - kept[0]), int(selected_up_to[-1] - selected_up_to[0])
    if config.reference_compatible and num_kept > num_selected and config.temporal_threshold >= 1:
        raise ConfigurationError(
            f"temporal_threshold {config.temporal_threshold} makes the reference divide by zero: use a value "
            "below 1, or reference_compatible=False, where 1 means no links over time"
        )
    features = widened(clip.features)
    frame_features = features.mean(dim=1)
    # The reference takes the means in the dtype of the model, for segments alone.
    in_model_dtype = config.reference_compatible and clip.features.dtype != features.dtype
    segments = segment_frames(clip.features.mean(dim=1) if in_model_dtype else frame_features, config)
    if not config.reference_compatible and num_kept == num_frames * num_tokens:
        everything = torch.arange(num_kept, device=features.device)
        tokens = clip.features.reshape(-1, width).clone()
        return CompressionResult(tokens, everything, everything.clone(), segments.lengths)
    lengths = inverse_lengths(features, reference_compatible=config.reference_compatible)
    relevance = None
    if config.token_selection_method == "attn_div_v2":  # noqa: S105 - not that kind of token
        whole = config.event_relevance == "clip"
        events = Segments.of((num_frames,), features.device) if whole else segments
        relevance = event_relevance(features, frame_features, events)
    selected = _select(features, lengths, clip.scores, relevance, np.diff(selected_up_to), config)
    parts = [Rows.kept(selected)]
    if num_kept > num_selected:
        free = torch.ones(num_frames * num_tokens, dtype=torch.bool, device=features.device)
        free[selected] = False
        free = free.view(num_frames, num_tokens)
        if config.reference_compatible:
            # In a frame that is a segment of its own every token is a candidate, selected ones a second time.
            free |= torch.from_numpy((segments.sizes == 1)[segments.numbers]).to(features.device).unsqueeze(-1)
        borders = np.append(0, np.cumsum(segments.sizes))
        min_roots = np.diff(kept[borders])
        merged = min_roots - np.diff(selected_up_to[borders])
        forest = grow_forest(
            features,
            lengths,
            free,
            segments,
            config.temporal_threshold,
            min_roots,
            dtype=clip.features.dtype if config.reference_compatible else features.dtype,
            reference_compatible=config.reference_compatible,
        )
        parts.append(_merge(features, free, forest, segments, merged, config))
    return assemble(features, parts, segments.lengths, clip.features.dtype)


def compress_adts(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    """Compress with FlashVID's ADTS alone: the whole budget goes to the selection (ablation of the paper)."""
    return compress_flashvid(clip, config.model_copy(update={"alpha": 1.0}))


def compress_tstm(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    """Compress with FlashVID's TSTM alone: the whole budget goes to merging (ablation of the paper)."""
    return compress_flashvid(clip, config.model_copy(update={"alpha": 0.0}))


def _budget_up_to(
    first_frame: int, num_frames: int, num_tokens: int, config: CompressionConfig
) -> tuple[Counts, Counts]:
    """Return the budget from the clip's first frame up to each border between frames, and ADTS's part: `[T + 1]` each.

    Frames or segments get the difference over them. Frames then differ by a token or two, the budget of consecutive
    frames is exact to within one token, and the budget of a frame does not depend on later frames.
    """
    borders = np.arange(first_frame, first_frame + num_frames + 1)
    if config.reference_compatible:
        return borders * config.budget(num_tokens), borders * config.n_select(num_tokens)
    # In the order of `clip_budget`, so that ceil gets the same number.
    asked = np.ceil(config.retention_ratio * config.expansion * borders * num_tokens)
    kept = np.minimum(asked, borders * num_tokens).astype(np.int64)
    return kept, np.ceil(kept * config.alpha).astype(np.int64)


def _select(
    features: Tensor,
    lengths: Tensor,
    scores: Tensor,
    relevance: Tensor | None,
    per_frame: Counts,
    config: CompressionConfig,
) -> Tensor:
    """Select `per_frame` tokens of each frame with ADTS, and return their indices in the clip, ascending."""
    num_frames, num_tokens, _ = features.shape
    per_frame = np.minimum(per_frame, num_tokens)
    most = int(per_frame.max())
    picks = select_tokens(
        features,
        lengths,
        scores,
        relevance,
        num_selected=most,
        method=config.token_selection_method,
        reference_compatible=config.reference_compatible,
    )
    firsts = np.arange(num_frames)[:, None] * num_tokens
    indices = picks + torch.from_numpy(firsts).to(picks.device)
    if (per_frame < most).any():
        # Fewer picks are the first of more, so a frame with a smaller budget drops its last ones.
        indices = indices[torch.from_numpy(np.arange(most) < per_frame[:, None]).to(features.device)]
    return indices.flatten().sort().values


def _clusters_per_frame(roots: Counts, segments: Segments, totals: Counts, config: CompressionConfig) -> Counts:
    """Return the number of merged tokens of each frame, at most its number of roots: `[T]`."""
    if config.reference_compatible:
        # One share for all frames of a segment, rounded up in each, in double precision as in Python.
        shares = totals / sum_by_group(roots, segments.numbers, len(totals)).clip(min=1)
        shared: Counts = np.minimum(np.ceil(roots * shares[segments.numbers]).astype(np.int64), roots)
        return shared
    # Every frame with roots gets one token, and the rest is split in proportion to the other roots. If there are too
    # few tokens for that, the whole budget is split in proportion to the roots.
    occupied = sum_by_group((roots > 0).astype(np.int64), segments.numbers, len(totals))
    enough = totals >= occupied
    first = ((roots > 0) & enough[segments.numbers]).astype(np.int64)
    return first + apportion(totals - occupied * enough, roots - first, segments.numbers)


def _merge(
    features: Tensor, free: Tensor, forest: Forest, segments: Segments, totals: Counts, config: CompressionConfig
) -> Rows:
    """Cluster the roots of every frame with DPC-kNN, and return the merged tokens.

    Args:
        features: `[T, N, D]`, float32 or float64.
        free: `[T, N]` bool: tokens to merge.
        forest: Trees of the free tokens.
        segments: Segments of the T frames.
        totals: `[S]`: merged tokens of each segment.
        config: The settings.
    """
    device = features.device
    root_counts = forest.is_root.sum(dim=1).cpu().numpy()
    cluster_counts = _clusters_per_frame(root_counts, segments, totals, config)
    # Frames with clusters, the largest first.
    frames = np.lexsort((-root_counts, cluster_counts == 0))[: np.count_nonzero(cluster_counts)]
    if len(frames) == 0:
        return Rows.kept(torch.empty(0, dtype=torch.int64, device=device))
    layout = Layout.of(root_counts[frames])
    first_rows = np.zeros_like(root_counts)
    first_rows[frames] = layout.first_rows
    # The row of every root among the values, meaningless for other tokens.
    row = (forest.is_root.cumsum(dim=1) + torch.from_numpy(first_rows[:, None] - 1).to(device)).flatten()
    is_used = (forest.is_root & torch.from_numpy(cluster_counts[:, None] > 0).to(device)).flatten()
    members = (free.flatten() & is_used[forest.root]).nonzero().flatten()
    root_of_member = forest.root[members]
    rows = row[root_of_member]
    weights = forest.divisor[root_of_member].to(features.dtype).reciprocal_()

    values = sum_bags(features.flatten(0, 1), members, rows, layout.num_rows, weights).float()
    clusters = dpc_knn(values, layout, cluster_counts[frames], reference_compatible=config.reference_compatible)
    del values

    ids = clusters.ids[rows]
    # All members of a tree, its root among them, agree on its root.
    root_of_row = torch.empty_like(clusters.ids).scatter_(0, rows, root_of_member)
    cluster_sizes = ids[members == root_of_member].bincount(minlength=len(clusters.centers))
    return Rows(root_of_row[clusters.centers], members, ids, weights / cluster_sizes[ids])
