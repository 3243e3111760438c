"""FlashVID: DySeg, ADTS, TSTM, DPC-kNN, assembly (arXiv 2602.08024; spec 0-5)."""

from __future__ import annotations

import torch
from torch import Tensor

from flashvid.clustering import dpc_knn
from flashvid.config import CompressionConfig
from flashvid.errors import ConfigurationError
from flashvid.merging import Forest, grow_forest, sum_bags
from flashvid.methods.method import CompressionMethod
from flashvid.ranking import apportion, spread_evenly, sums_of_groups
from flashvid.result import ClipFeatures, CompressionResult, Rows, assemble
from flashvid.segmentation import Segments, segment_frames
from flashvid.selection import event_relevance, select_tokens


def compress_flashvid(clip: ClipFeatures, config: CompressionConfig) -> CompressionResult:
    """FlashVID as a whole; see `flashvid.compress`.

    Raises:
        ConfigurationError: `reference_compatible` with a temporal threshold of 1 or more and tokens to merge,
            where the reference divides by zero.
    """
    num_frames, num_tokens, width = clip.features.shape
    num_merged = config.clip_budget(num_frames, num_tokens) - config.clip_selected(num_frames, num_tokens)
    if config.reference_compatible:
        num_merged = config.n_merge(num_tokens) * num_frames
        if num_merged > 0 and config.temporal_threshold >= 1:
            raise ConfigurationError(
                f"temporal_threshold {config.temporal_threshold} makes the reference divide by zero: use a value "
                "below 1, or reference_compatible=False, where 1 means no links over time"
            )
    # Halves are widened: sums over frames and tokens do not fit them.
    features = clip.features.to(torch.promote_types(clip.features.dtype, torch.float32))
    features = features.contiguous()
    segments, relevance = _segments_and_relevance(clip, features, config)
    if not config.reference_compatible and config.clip_budget(num_frames, num_tokens) == num_frames * num_tokens:
        everything = torch.arange(num_frames * num_tokens, device=features.device)
        return CompressionResult(
            clip.features.reshape(-1, width).clone(), everything, everything.clone(), segments.lengths
        )
    norms = torch.linalg.vector_norm(features, dim=-1)
    selected, is_selected = _select(features, norms, clip.scores, relevance, config)
    tokens = clip.features.reshape(-1, width)[selected]
    rows = [Rows(tokens, selected, selected, torch.arange(len(selected), device=selected.device))]
    if num_merged > 0:
        free = ~is_selected
        if config.reference_compatible:
            # It offers every token of a frame that is a segment of its own, selected ones a second time.
            free |= (segments.sizes == 1)[segments.of_frame].unsqueeze(-1)
        totals, min_roots = _merge_budget(free, is_selected, segments, num_merged, config)
        forest = grow_forest(
            features,
            norms,
            free,
            segments,
            config.temporal_threshold,
            min_roots,
            dtype=clip.features.dtype if config.reference_compatible else features.dtype,
            reference_compatible=config.reference_compatible,
        )
        rows.append(_merge(features, free, forest, segments, totals, clip.features.dtype, config))
    return assemble(clip.features, rows, segments.lengths)


def _segments_and_relevance(
    clip: ClipFeatures, features: Tensor, config: CompressionConfig
) -> tuple[Segments, Tensor | None]:
    """DySeg, and the event relevance where the settings ask for it; both look at the means of frames."""
    frame_features = features.mean(dim=1)
    # The reference takes its means in the dtype of the model, for segments alone.
    narrow = clip.features.mean(dim=1) if config.reference_compatible else frame_features
    segments = segment_frames(narrow, config)
    if config.token_selection_method != "attn_div_v2":
        return segments, None
    events = segments
    if config.event_relevance == "clip":
        events = Segments.of((len(features),), features.device)
    return segments, event_relevance(features, frame_features, events)


def _select(
    features: Tensor, norms: Tensor, scores: Tensor, relevance: Tensor | None, config: CompressionConfig
) -> tuple[Tensor, Tensor]:
    """ADTS: the tokens it selects as indices in the clip, frame by frame, ascending; and the same as `[T, N]` bool."""
    num_frames, num_tokens, _ = features.shape
    if config.reference_compatible:
        per_frame = torch.full((num_frames,), min(config.n_select(num_tokens), num_tokens), device=features.device)
        most = min(config.n_select(num_tokens), num_tokens)
    else:
        total = config.clip_selected(num_frames, num_tokens)
        per_frame, most = spread_evenly(total, num_frames, features.device), -(-total // num_frames)
    picks = select_tokens(
        features,
        norms,
        scores,
        relevance,
        num_selected=most,
        method=config.token_selection_method,
        reference_compatible=config.reference_compatible,
    )
    # Fewer picks are the first of more, so a frame that gets one fewer leaves out its last.
    kept = torch.arange(most, device=features.device) < per_frame.unsqueeze(-1)
    firsts = torch.arange(num_frames, device=features.device).unsqueeze(-1) * num_tokens
    selected = (picks + firsts)[kept].sort().values
    is_selected = torch.zeros(num_frames * num_tokens, dtype=torch.bool, device=features.device)
    is_selected[selected] = True
    return selected, is_selected.view(num_frames, num_tokens)


def _merge_budget(
    free: Tensor, is_selected: Tensor, segments: Segments, num_merged: int, config: CompressionConfig
) -> tuple[Tensor, Tensor]:
    """How many merged tokens each segment gets, and how many tokens without a link it has to keep: both `[S]`."""
    num_frames, num_tokens = free.shape
    count = len(segments.lengths)
    if config.reference_compatible:
        return segments.sizes * config.n_merge(num_tokens), segments.sizes * config.budget(num_tokens)
    free_tokens = sums_of_groups(free.sum(dim=1), segments.of_frame, count)
    # Of all segments alike, in proportion to the tokens they have left, so that none gets more than that.
    totals = apportion(
        torch.tensor([num_merged], device=free.device), free_tokens, torch.zeros_like(free_tokens)
    )
    return totals, totals + sums_of_groups(is_selected.sum(dim=1), segments.of_frame, count)


def _clusters_per_frame(is_root: Tensor, segments: Segments, totals: Tensor, config: CompressionConfig) -> Tensor:
    """How many merged tokens each frame gets: `[T]` int64, none above the roots it has."""
    roots = is_root.sum(dim=1)
    count = len(segments.lengths)
    of_segment = sums_of_groups(roots, segments.of_frame, count)
    if config.reference_compatible:
        # One share for all frames of a segment, rounded up in each: in double precision, as Python has it.
        shares = totals.double() / of_segment.clamp_min(1)
        return (roots * shares[segments.of_frame]).ceil().long().minimum(roots)
    # Every frame with roots gets one token, and the rest goes by their further roots. Where there are not that many,
    # frames with more roots come first and the others lose theirs.
    occupied = sums_of_groups(roots > 0, segments.of_frame, count)
    enough = totals >= occupied
    first = ((roots > 0) & enough[segments.of_frame]).long()
    return first + apportion(totals - occupied * enough, roots - first, segments.of_frame)


def _merge(
    features: Tensor,
    free: Tensor,
    forest: Forest,
    segments: Segments,
    totals: Tensor,
    dtype: torch.dtype,
    config: CompressionConfig,
) -> Rows:
    """DPC-kNN on the roots of every frame, and the merged tokens.

    Args:
        features: `[T, N, D]`, float32 or float64.
        free: `[T, N]` bool: tokens to merge.
        forest: Their trees.
        segments: Of the T frames.
        totals: `[S]` int64: merged tokens of each segment.
        dtype: Of the result.
        config: The settings.
    """
    num_frames, num_tokens, width = features.shape
    num_roots = forest.is_root.sum(dim=1)
    num_clusters = _clusters_per_frame(forest.is_root, segments, totals, config)
    most = int(num_roots.amax())
    inputs = features.view(-1, width)
    members = free.flatten().nonzero().flatten()
    roots = forest.root[members]
    frames = roots // num_tokens
    place = (forest.is_root.cumsum(dim=1) - 1).flatten()[roots]
    weights = forest.divisor[roots].to(features.dtype).reciprocal()

    values = sum_bags(inputs, members, frames * most + place, num_frames * most, weights)
    clusters = dpc_knn(
        values.view(num_frames, most, width).float(),
        num_roots,
        num_clusters,
        reference_compatible=config.reference_compatible,
    )
    del values

    first_row = num_clusters.cumsum(0) - num_clusters
    kept = num_clusters[frames] > 0
    members, roots, frames, place, weights = (part[kept] for part in (members, roots, frames, place, weights))
    rows = first_row[frames] + clusters.ids[frames, place]
    num_rows = int(num_clusters.sum())
    cluster_sizes = sums_of_groups((members == roots).long(), rows, num_rows)
    tokens = sum_bags(inputs, members, rows, num_rows, weights / cluster_sizes[rows])

    taken = torch.arange(clusters.centers.shape[1], device=features.device) < num_clusters.unsqueeze(-1)
    position_of_place = torch.argsort(~forest.is_root, dim=1, stable=True)
    centers = position_of_place.gather(1, clusters.centers)
    firsts = torch.arange(num_frames, device=features.device).unsqueeze(-1) * num_tokens
    return Rows(tokens.to(dtype), (centers + firsts)[taken], members, rows)


FLASHVID = CompressionMethod(compress_flashvid, "FlashVID, arXiv 2602.08024")
