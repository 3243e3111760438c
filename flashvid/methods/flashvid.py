"""FlashVID: DySeg, ADTS, TSTM, DPC-kNN, assembly (arXiv 2602.08024; spec 0-5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flashvid.clustering import dpc_knn
from flashvid.config import CompressionConfig
from flashvid.errors import ConfigurationError, InvalidFeaturesError
from flashvid.merging import Forest, grow_forest, sum_bags
from flashvid.methods.method import CompressionMethod
from flashvid.products import inverse_lengths
from flashvid.ranking import Counts, apportion, sum_by_group
from flashvid.result import ClipFeatures, CompressionResult
from flashvid.segmentation import Segments, segment_frames
from flashvid.selection import event_relevance, select_tokens


@dataclass(frozen=True, eq=False)
class Parts:
    """Rows of the result before they are sorted, as sums of input tokens that have not been taken yet."""

    indices: Tensor
    """`[m]` int64: where each row stands among the input tokens."""
    members: Tensor
    """`[p]` int64: input tokens."""
    member_rows: Tensor
    """`[p]` int64: the row that each of `members` contributes to."""
    weights: Tensor
    """`[p]` floating: how much."""


def compress_flashvid(clip: ClipFeatures, config: CompressionConfig, *, first_frame: int = 0) -> CompressionResult:
    """FlashVID as a whole; see `flashvid.compress`.

    Args:
        clip: A clip, or whole segments of one.
        config: The settings.
        first_frame: Where in its clip `clip` begins: fractions of a token left over by frames before count here.

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
    # Halves are widened: sums over frames and tokens do not fit them.
    features = clip.features.to(torch.promote_types(clip.features.dtype, torch.float32)).contiguous()
    segments, relevance = _segments_and_relevance(clip, features, config)
    if not config.reference_compatible and num_kept == num_frames * num_tokens:
        everything = torch.arange(num_kept, device=features.device)
        tokens = clip.features.reshape(-1, width).clone()
        return CompressionResult(tokens, everything, everything.clone(), segments.lengths)
    selected = _select(features, clip.scores, relevance, np.diff(selected_up_to), config)
    parts = [
        Parts(selected, selected, torch.arange(len(selected), device=selected.device), features.new_ones(len(selected)))
    ]
    if num_kept > num_selected:
        free = torch.ones(num_frames * num_tokens, dtype=torch.bool, device=features.device)
        free[selected] = False
        free = free.view(num_frames, num_tokens)
        if config.reference_compatible:
            # It offers every token of a frame that is a segment of its own, selected ones a second time.
            free |= torch.from_numpy((segments.sizes == 1)[segments.numbers]).to(features.device).unsqueeze(-1)
        ends = np.cumsum(segments.sizes)
        min_roots = kept[ends] - kept[ends - segments.sizes]
        merged = min_roots - (selected_up_to[ends] - selected_up_to[ends - segments.sizes])
        forest = grow_forest(
            features,
            inverse_lengths(features, reference_compatible=config.reference_compatible),
            free,
            segments,
            config.temporal_threshold,
            min_roots,
            dtype=clip.features.dtype if config.reference_compatible else features.dtype,
            reference_compatible=config.reference_compatible,
        )
        parts.append(_merge(features, free, forest, segments, merged, config))
    return _assemble(features.view(-1, width), parts, segments.lengths, clip.features.dtype)


def _budget_up_to(
    first_frame: int, num_frames: int, num_tokens: int, config: CompressionConfig
) -> tuple[Counts, Counts]:
    """The budget from the clip's first frame up to each border between frames, and ADTS's part: `[T + 1]` each.

    What frames or segments get is the difference over them. Frames then differ by a token or two, any run of frames
    has its due to within one token, and the budget of a frame does not depend on what follows.
    """
    borders = np.arange(first_frame, first_frame + num_frames + 1)
    if config.reference_compatible:
        return borders * config.budget(num_tokens), borders * config.n_select(num_tokens)
    # In this order, so that ceil sees what `clip_budget` does.
    asked = np.ceil(config.retention_ratio * config.expansion * borders * num_tokens).astype(np.int64)
    kept = np.minimum(asked, borders * num_tokens)
    return kept, np.ceil(kept * config.alpha).astype(np.int64)


def _segments_and_relevance(
    clip: ClipFeatures, features: Tensor, config: CompressionConfig
) -> tuple[Segments, Tensor | None]:
    """DySeg, and the event relevance where the settings ask for it; both look at the means of frames."""
    frame_features = features.mean(dim=1)
    # The reference takes its means in the dtype of the model, for segments alone.
    narrow = clip.features.mean(dim=1) if config.reference_compatible else frame_features
    segments = segment_frames(narrow, config)
    if config.token_selection_method == "attn_div_v2":  # noqa: S105 - not that kind of token
        whole = config.event_relevance == "clip"
        events = Segments.of((len(features),), features.device) if whole else segments
        return segments, event_relevance(features, frame_features, events)
    return segments, None


def _select(
    features: Tensor, scores: Tensor, relevance: Tensor | None, per_frame: Counts, config: CompressionConfig
) -> Tensor:
    """ADTS: so many tokens of each frame, as indices in the clip, ascending."""
    num_frames, num_tokens, _ = features.shape
    per_frame = np.minimum(per_frame, num_tokens)
    most = int(per_frame.max())
    picks = select_tokens(
        features,
        scores,
        relevance,
        num_selected=most,
        method=config.token_selection_method,
        reference_compatible=config.reference_compatible,
    )
    firsts = torch.arange(0, num_frames * num_tokens, num_tokens, device=features.device)
    indices = picks + firsts.unsqueeze(-1)
    if (per_frame < most).any():
        # Fewer picks are the first of more, so a frame that gets one fewer leaves out its last.
        indices = indices[torch.from_numpy(np.arange(most) < per_frame[:, None]).to(features.device)]
    return indices.flatten().sort().values


def _clusters_per_frame(roots: Counts, segments: Segments, totals: Counts, config: CompressionConfig) -> Counts:
    """How many merged tokens each frame gets, none more than it has roots: `[T]`."""
    if config.reference_compatible:
        # One share for all frames of a segment, rounded up in each: in double precision, as Python has it.
        shares = totals / sum_by_group(roots, segments.numbers, len(totals)).clip(min=1)
        shared: Counts = np.minimum(np.ceil(roots * shares[segments.numbers]).astype(np.int64), roots)
        return shared
    # Every frame with roots gets one token, and the rest goes by their further roots. Where there are not that many,
    # frames with more roots come first and others lose theirs.
    occupied = sum_by_group((roots > 0).astype(np.int64), segments.numbers, len(totals))
    enough = totals >= occupied
    first = ((roots > 0) & enough[segments.numbers]).astype(np.int64)
    return first + apportion(totals - occupied * enough, roots - first, segments.numbers)


def _merge(
    features: Tensor,
    free: Tensor,
    forest: Forest,
    segments: Segments,
    totals: Counts,
    config: CompressionConfig,
) -> Parts:
    """DPC-kNN on the roots of every frame, and the merged tokens.

    Args:
        features: `[T, N, D]`, float32 or float64.
        free: `[T, N]` bool: tokens to merge.
        forest: Their trees.
        segments: Of the T frames.
        totals: `[S]`: merged tokens of each segment.
        config: The settings.
    """
    num_frames, num_tokens, width = features.shape
    num_roots = forest.is_root.sum(dim=1)
    root_counts = num_roots.cpu().numpy()
    cluster_counts = _clusters_per_frame(root_counts, segments, totals, config)
    most, num_rows = int(root_counts.max()), int(cluster_counts.sum())
    inputs = features.view(-1, width)
    if num_rows == 0:
        none = num_roots.new_empty(0)
        return Parts(none, none, none, features.new_empty(0))
    members = free.flatten().nonzero().flatten()
    roots = forest.root[members]
    frames = roots // num_tokens
    place = (forest.is_root.cumsum(dim=1) - 1).flatten()[roots]
    weights = forest.divisor[roots].to(features.dtype).reciprocal_()

    values = sum_bags(inputs, members, frames * most + place, num_frames * most, weights).float()
    clusters = dpc_knn(
        values.view(num_frames, most, width),
        root_counts,
        cluster_counts,
        reference_compatible=config.reference_compatible,
    )
    del values

    if (cluster_counts < np.minimum(root_counts, 1)).any():
        kept = torch.from_numpy(cluster_counts > 0).to(features.device)[frames]
        members, roots, frames, place, weights = (part[kept] for part in (members, roots, frames, place, weights))
    first_row = torch.from_numpy(np.cumsum(cluster_counts) - cluster_counts).to(features.device)
    rows = first_row[frames] + clusters.ids[frames, place]
    cluster_sizes = rows[members == roots].bincount(minlength=num_rows)
    taken = torch.from_numpy(np.arange(clusters.centers.shape[1]) < cluster_counts[:, None]).to(features.device)
    # The roots of each frame come first in this order, ascending: their places are positions in it.
    positions = (~forest.is_root).sort(dim=1, stable=True).indices.gather(1, clusters.centers)
    firsts = torch.arange(0, num_frames * num_tokens, num_tokens, device=features.device)
    return Parts((positions + firsts.unsqueeze(-1))[taken], members, rows, weights / cluster_sizes[rows])


def _assemble(
    inputs: Tensor, parts: list[Parts], segment_lengths: tuple[int, ...], dtype: torch.dtype
) -> CompressionResult:
    """Sort the rows by index (of equal ones, a selected token comes before a merged one) and take their sums."""
    indices = torch.cat([part.indices for part in parts])
    indices, order = indices.sort(stable=True)
    num_rows = len(indices)
    slot_of_row = torch.empty_like(order)
    slot_of_row[order] = torch.arange(num_rows, device=order.device)
    rows = [parts[0].member_rows, *(part.member_rows + len(parts[0].indices) for part in parts[1:])]
    slots = slot_of_row[torch.cat(rows)]
    members = torch.cat([part.members for part in parts])
    tokens = sum_bags(inputs, members, slots, num_rows, torch.cat([part.weights for part in parts])).to(dtype)
    # Only the reference's sums in half precision can grow beyond its range.
    if dtype in (torch.float16, torch.bfloat16) and not bool(tokens.isfinite().all()):
        raise InvalidFeaturesError(f"features overflow {dtype} when summed over frames: use float32")
    assignment = indices.new_full((len(inputs),), num_rows)
    assignment.scatter_reduce_(0, members, slots, "amin")
    return CompressionResult(tokens, indices, assignment.masked_fill_(assignment == num_rows, -1), segment_lengths)


FLASHVID = CompressionMethod(compress_flashvid, "FlashVID, arXiv 2602.08024")
